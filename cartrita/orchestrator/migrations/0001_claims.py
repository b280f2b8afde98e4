from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Claim",
            fields=[
                ("session_id", models.UUIDField(primary_key=True, serialize=False)),
                ("owner", models.UUIDField()),
                ("token", models.BigIntegerField()),
                ("renewed_at", models.DateTimeField()),
            ],
            options={"db_table": "orchestrator_claim"},
        ),
        # Few rows, each written every two seconds: room on its page keeps the table as small as it is.
        migrations.RunSQL("ALTER TABLE orchestrator_claim SET (fillfactor = 50)", migrations.RunSQL.noop),
        # A sequence outlives the rows: no token comes twice.
        migrations.RunSQL(
            "CREATE SEQUENCE orchestrator_claim_token AS bigint", "DROP SEQUENCE orchestrator_claim_token"
        ),
    ]
