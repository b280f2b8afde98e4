from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0002_words_as_keyed_hashes")]

    operations = [
        migrations.RemoveIndex(model_name="document", name="document_pending"),
        migrations.AddField(model_name="document", name="approval_id", field=models.UUIDField(null=True)),
        migrations.AddField(model_name="document", name="retry_after", field=models.DateTimeField(null=True)),
        migrations.AddIndex(
            model_name="document",
            index=models.Index(
                condition=models.Q(("status__in", ["held", "received", "chunked"])),
                fields=["created_at"],
                name="document_pending",
            ),
        ),
    ]
