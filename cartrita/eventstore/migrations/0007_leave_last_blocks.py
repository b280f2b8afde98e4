"""The blocks that events are being written to have no summary of their ids yet (docs/decisions/0018).

An index summarises what there is when it is made, be it the first range of an empty table. Each insert into a
range that has a summary writes that summary again: three times the WAL of an event.
"""

from django.db import migrations

LEAVE = """
    select brin_desummarize_range(
        'event_event_id', greatest(pg_relation_size('event') / current_setting('block_size')::int - 1, 0)
    )
"""


class Migration(migrations.Migration):
    dependencies = [("eventstore", "0006_reader_of_governance")]
    operations = [migrations.RunSQL(LEAVE, migrations.RunSQL.noop)]
