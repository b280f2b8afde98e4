"""A small index that leads to an event's id (docs/decisions/0018)."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("eventstore", "0004_aggregate_snapshot")]
    operations = [
        migrations.RunSQL(
            "create index event_event_id on event using brin (event_id uuid_bloom_ops) with (autosummarize = on)",
            "drop index event_event_id",
        ),
    ]
