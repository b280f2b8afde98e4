from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="StoredAnswer",
            fields=[
                ("id", models.BinaryField(primary_key=True, serialize=False)),
                ("fingerprint", models.BinaryField()),
                ("answer", models.BinaryField()),
                ("answered_at", models.DateTimeField()),
            ],
            options={
                "db_table": "http_stored_answer",
                "indexes": [models.Index(models.F("answered_at"), name="http_stored_answer_age")],
            },
        ),
    ]
