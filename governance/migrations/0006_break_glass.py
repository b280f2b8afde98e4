"""Break-glass: who opened it, why, until when."""

import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("governance", "0005_shadow"),
    ]

    operations = [
        migrations.AddField(
            model_name="policydecision",
            name="redact",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=64), default=list, size=None
            ),
        ),
        migrations.AddField(
            model_name="policydecision",
            name="glass_id",
            field=models.UUIDField(null=True),
        ),
        migrations.AddField(
            model_name="policydecision",
            name="unbroken_outcome",
            field=models.CharField(blank=True, default="", max_length=10),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="policydecision",
            name="unbroken_rule",
            field=models.CharField(blank=True, default="", max_length=60),
            preserve_default=False,
        ),
        migrations.AddIndex(
            model_name="policydecision",
            index=models.Index(
                condition=models.Q(("glass_id__isnull", False)),
                fields=["workspace_id", "-created_at"],
                name="decision_glass",
            ),
        ),
        migrations.CreateModel(
            name="BreakGlass",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("workspace_id", models.UUIDField()),
                ("version", models.IntegerField()),
                ("scope_kind", models.CharField(max_length=10)),
                ("scope", models.CharField(blank=True, max_length=64)),
                ("reason", models.TextField()),
                ("by", models.CharField(max_length=80)),
                ("alone", models.BooleanField(default=False)),
                ("opened_at", models.DateTimeField()),
                ("until", models.DateTimeField()),
                ("ended_at", models.DateTimeField(null=True)),
                ("ended_by", models.CharField(blank=True, max_length=80)),
                ("ended_note", models.TextField(blank=True)),
            ],
            options={
                "verbose_name": "break-glass",
                "verbose_name_plural": "break-glass",
                "db_table": "governance_break_glass",
                "ordering": ("-opened_at", "-id"),
                "indexes": [
                    models.Index(fields=["workspace_id", "-opened_at"], name="glass_workspace"),
                    models.Index(
                        condition=models.Q(("ended_at__isnull", True)),
                        fields=["workspace_id", "until"],
                        name="glass_open",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="GlassReview",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("glass_id", models.UUIDField(db_index=True)),
                ("workspace_id", models.UUIDField()),
                ("by", models.CharField(max_length=80)),
                ("own", models.BooleanField(default=False)),
                ("note", models.TextField(blank=True)),
                ("reviewed_at", models.DateTimeField()),
            ],
            options={
                "db_table": "governance_glass_review",
                "ordering": ("-reviewed_at", "-id"),
            },
        ),
    ]
