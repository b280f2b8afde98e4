from django.db import migrations, models

# The one model and recipe that made vectors before they were noted.
_FILL = """
    insert into retrieval_document_vectors (document_id, model)
    select id, 'all-MiniLM-L6-v2-int8-1' from retrieval_documents where status = 'ready'
"""


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0003_held_documents")]

    operations = [
        migrations.CreateModel(
            name="DocumentVectors",
            fields=[
                ("document_id", models.UUIDField(primary_key=True, serialize=False)),
                ("model", models.CharField(db_index=True, max_length=100)),
            ],
            options={
                "db_table": "retrieval_document_vectors",
                "verbose_name_plural": "vectors of documents",
            },
        ),
        migrations.RunSQL(_FILL, migrations.RunSQL.noop),
    ]
