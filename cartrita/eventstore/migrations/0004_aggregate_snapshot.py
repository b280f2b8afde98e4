"""What long streams folded to, as of a version: a cache beside the events, and nothing that a backup needs."""

import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("eventstore", "0003_blob_references_and_roles")]
    operations = [
        migrations.CreateModel(
            name="AggregateSnapshot",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "stream_id",
                        "aggregate",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("stream_id", models.UUIDField()),
                ("aggregate", models.TextField()),
                ("fold_version", models.TextField()),
                ("version", models.IntegerField()),
                ("event_id", models.UUIDField()),
                ("key_id", models.UUIDField(db_index=True, null=True)),
                ("state", models.BinaryField()),
                ("taken_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={"db_table": "aggregate_snapshot"},
        ),
        # A crash may empty it, and no backup carries it.
        migrations.RunSQL(
            "alter table aggregate_snapshot set unlogged", "alter table aggregate_snapshot set logged"
        ),
    ]
