from django.db import migrations

# UNLOGGED: the text of an unfinished message may vanish in a crash, because its writer puts it back or the next
# attempt starts again; the finished text is an event. Purged rows leave no trace in the write-ahead log either.
CREATE = """
CREATE UNLOGGED TABLE streaming_message (
    message_id uuid PRIMARY KEY,
    session_id uuid NOT NULL,
    attempt integer NOT NULL CHECK (attempt >= 1),
    length bigint NOT NULL CHECK (length >= 0),
    sha256 text,
    completed_at timestamptz,
    touched_at timestamptz NOT NULL
);
CREATE INDEX streaming_message_session ON streaming_message (session_id);
CREATE UNLOGGED TABLE streaming_delta (
    message_id uuid NOT NULL,
    attempt integer NOT NULL,
    start_byte bigint NOT NULL,
    end_byte bigint NOT NULL,
    text text NOT NULL,
    PRIMARY KEY (message_id, attempt, start_byte)
);
"""
DROP = "DROP TABLE streaming_delta; DROP TABLE streaming_message;"

# The role exists where the tables are owned by another one; a single-role installation needs no grant.
GRANT = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'cartrita_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON streaming_message, streaming_delta TO cartrita_app;
    END IF;
END
$$;
"""


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.RunSQL(CREATE, DROP),
        migrations.RunSQL(GRANT, migrations.RunSQL.noop),
    ]
