"""Back-tests, and how far the ones have come that are carried out."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies: ClassVar = [("governance", "0006_break_glass")]
    operations: ClassVar = [
        migrations.CreateModel(
            name="BackTest",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("workspace_id", models.UUIDField()),
                ("version", models.IntegerField()),
                ("policy", models.CharField(max_length=100)),
                ("policy_hash", models.CharField(max_length=64)),
                ("source", models.CharField(max_length=10)),
                ("by", models.CharField(max_length=80)),
                ("since", models.DateTimeField(null=True)),
                ("until", models.DateTimeField(null=True)),
                ("only_session", models.UUIDField(null=True)),
                ("status", models.CharField(max_length=10)),
                ("requested_at", models.DateTimeField()),
                ("ended_at", models.DateTimeField(null=True)),
                ("ended_by", models.CharField(blank=True, max_length=80)),
                ("code", models.CharField(blank=True, max_length=100)),
                ("message", models.TextField(blank=True)),
                ("report_sha256", models.CharField(blank=True, max_length=64)),
                ("decisions", models.BigIntegerField(null=True)),
                ("not_redecidable", models.BigIntegerField(null=True)),
                ("differences", models.BigIntegerField(null=True)),
                ("changed", models.BigIntegerField(null=True)),
                ("sessions_changed", models.BigIntegerField(null=True)),
                ("milliseconds", models.BigIntegerField(null=True)),
            ],
            options={
                "verbose_name": "back-test",
                "db_table": "governance_back_test",
                "ordering": ("-requested_at", "-id"),
                "indexes": [
                    models.Index(fields=["workspace_id", "-requested_at"], name="back_test_workspace"),
                    models.Index(
                        condition=models.Q(("status", "requested")),
                        fields=["requested_at"],
                        name="back_test_queue",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="BackTestProgress",
            fields=[
                ("back_test_id", models.UUIDField(primary_key=True, serialize=False)),
                ("decisions", models.BigIntegerField()),
                ("total", models.BigIntegerField()),
                ("phase", models.CharField(max_length=10)),
                ("starts", models.IntegerField()),
                ("began_at", models.DateTimeField()),
                ("beat_at", models.DateTimeField()),
            ],
            options={"db_table": "governance_back_test_progress"},
        ),
    ]
