"""The append-only tables `event`, `log`, `tick`, `tree_head`; keys, blobs and checkpoints; grants."""

import django.db.models.functions.datetime
from django.db import migrations, models

TABLES = """
create table event (
    stream_id uuid not null,
    version integer not null check (version > 0),
    seq bigint generated always as identity,
    xid xid8 not null default pg_current_xact_id(),
    event_id uuid not null,
    type text not null,
    schema_version smallint not null,
    recorded_at timestamptz not null,
    workspace_id uuid not null,
    session_id uuid,
    causation_id uuid,
    actor text not null,
    trace_id text not null,
    key_id uuid,
    data bytea not null,
    primary key (stream_id, version)
);
create index event_xid_seq on event (xid, seq);

create table log (
    position bigint primary key,
    stream_id uuid not null,
    version integer not null,
    session_id uuid,
    workspace_id uuid not null,
    leaf bytea not null
);
create unique index log_stream on log (stream_id, version) include (position);
create index log_session on log (session_id, position) where session_id is not null;
create index log_workspace on log (workspace_id, position);

create table tick (
    number bigint primary key,
    epoch integer not null,
    snapshot pg_snapshot not null,
    size bigint not null,
    root bytea not null,
    frontier bytea,
    chain bytea not null,
    cluster bigint not null,
    ticked_at timestamptz not null
);
comment on column tick.frontier is 'Peaks of the Merkle tree at this size; stored now and then, to start from.';
comment on column tick.cluster is 'System identifier of the cluster whose transaction ids the snapshot speaks of.';

create table tree_head (
    size bigint primary key,
    root bytea not null,
    note text not null,
    signed_at timestamptz not null
);

create view ordered_event as
select log.position, event.stream_id, event.version, event.event_id, event.type, event.schema_version,
       event.recorded_at, event.workspace_id, event.session_id, event.causation_id, event.actor,
       event.trace_id, event.key_id, convert_from(event.data, 'UTF8')::jsonb as data, log.leaf
from log join event using (stream_id, version);

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% on "%" is refused: its rows are facts and are never changed', tg_op, tg_table_name
        using errcode = 'restrict_violation';
end $$;
"""

# ENABLE ALWAYS: fires also where session_replication_role is "replica".
APPEND_ONLY = "\n".join(
    f"create trigger append_only before update or delete or truncate on {table} "
    f"for each statement execute function refuse_change();\n"
    f"alter table {table} enable always trigger append_only;"
    for table in ("event", "log", "tick", "tree_head")
)

GRANTS = """
create function grant_to_application(application name) returns void language plpgsql as $$
begin
    execute format('grant usage on schema public to %I', application);
    execute format('grant select, insert, update, delete on all tables in schema public to %I', application);
    execute format('grant usage, select on all sequences in schema public to %I', application);
    execute format('alter default privileges in schema public '
                   'grant select, insert, update, delete on tables to %I', application);
    execute format('alter default privileges in schema public '
                   'grant usage, select on sequences to %I', application);
    execute format('revoke update, delete on event, log, tick, tree_head from %I', application);
    execute format('revoke update on blob from %I', application);
end $$;
comment on function grant_to_application(name) is
    'Gives the role that serves its rights; call it as owner when the role was made after the tables.';
do $$
begin
    if exists (select from pg_roles where rolname = 'cartrita_app') then
        perform grant_to_application('cartrita_app');
    end if;
end $$;
"""

UNDO = """
drop view ordered_event;
drop table tree_head, tick, log, event;
drop function refuse_change();
"""


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.RunSQL(TABLES + APPEND_ONLY, UNDO),
        migrations.CreateModel(
            name="Event",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "stream_id", "version", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("stream_id", models.UUIDField()),
                ("version", models.IntegerField()),
                ("seq", models.BigIntegerField()),
                ("event_id", models.UUIDField()),
                ("type", models.TextField()),
                ("schema_version", models.SmallIntegerField()),
                ("recorded_at", models.DateTimeField()),
                ("workspace_id", models.UUIDField()),
                ("session_id", models.UUIDField(null=True)),
                ("causation_id", models.UUIDField(null=True)),
                ("actor", models.TextField()),
                ("trace_id", models.TextField()),
                ("key_id", models.UUIDField(null=True)),
                ("data", models.BinaryField()),
            ],
            options={"managed": False, "db_table": "event"},
        ),
        migrations.CreateModel(
            name="Log",
            fields=[
                ("position", models.BigIntegerField(primary_key=True, serialize=False)),
                ("stream_id", models.UUIDField()),
                ("version", models.IntegerField()),
                ("session_id", models.UUIDField(null=True)),
                ("workspace_id", models.UUIDField()),
                ("leaf", models.BinaryField()),
            ],
            options={"managed": False, "db_table": "log"},
        ),
        migrations.CreateModel(
            name="Tick",
            fields=[
                ("number", models.BigIntegerField(primary_key=True, serialize=False)),
                ("epoch", models.IntegerField()),
                ("snapshot", models.TextField()),
                ("size", models.BigIntegerField()),
                ("root", models.BinaryField()),
                ("chain", models.BinaryField()),
                ("ticked_at", models.DateTimeField()),
            ],
            options={"managed": False, "db_table": "tick"},
        ),
        migrations.CreateModel(
            name="TreeHead",
            fields=[
                ("size", models.BigIntegerField(primary_key=True, serialize=False)),
                ("root", models.BinaryField()),
                ("note", models.TextField()),
                ("signed_at", models.DateTimeField()),
            ],
            options={"managed": False, "db_table": "tree_head"},
        ),
        migrations.CreateModel(
            name="OrderedEvent",
            fields=[
                ("position", models.BigIntegerField(primary_key=True, serialize=False)),
                ("stream_id", models.UUIDField()),
                ("version", models.IntegerField()),
                ("event_id", models.UUIDField()),
                ("type", models.TextField()),
                ("schema_version", models.SmallIntegerField()),
                ("recorded_at", models.DateTimeField()),
                ("workspace_id", models.UUIDField()),
                ("session_id", models.UUIDField(null=True)),
                ("causation_id", models.UUIDField(null=True)),
                ("actor", models.TextField()),
                ("trace_id", models.TextField()),
                ("key_id", models.UUIDField(null=True)),
                ("data", models.JSONField()),
                ("leaf", models.BinaryField()),
            ],
            options={
                "managed": False,
                "db_table": "ordered_event",
                "verbose_name": "event",
                "verbose_name_plural": "events",
            },
        ),
        migrations.CreateModel(
            name="SubjectKey",
            fields=[
                ("subject_id", models.UUIDField(primary_key=True, serialize=False)),
                ("wrapped", models.BinaryField(null=True)),
                ("master_key_id", models.TextField()),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("erased_at", models.DateTimeField(null=True)),
            ],
            options={"db_table": "subject_key"},
        ),
        migrations.CreateModel(
            name="DataKey",
            fields=[
                ("key_id", models.UUIDField(primary_key=True, serialize=False)),
                ("subject_id", models.UUIDField(db_index=True)),
                ("scope", models.TextField()),
                ("wrapped", models.BinaryField(null=True)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("erased_at", models.DateTimeField(null=True)),
            ],
            options={"db_table": "data_key"},
        ),
        # A key that its own transaction made may still be rolled back: it must not be cached.
        migrations.RunSQL(
            "alter table data_key add column created_xid xid8 not null default pg_current_xact_id()",
            migrations.RunSQL.noop,
        ),
        migrations.CreateModel(
            name="Blob",
            fields=[
                ("sha256", models.BinaryField(primary_key=True, serialize=False)),
                ("content", models.BinaryField()),
                ("key_id", models.UUIDField(db_index=True, null=True)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={"db_table": "blob"},
        ),
        migrations.CreateModel(
            name="Checkpoint",
            fields=[
                ("name", models.TextField(primary_key=True, serialize=False)),
                ("position", models.BigIntegerField(default=0)),
            ],
            options={"db_table": "projection_checkpoint"},
        ),
        migrations.RunSQL(GRANTS, "drop function grant_to_application(name)"),
    ]
