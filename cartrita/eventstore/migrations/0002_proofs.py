"""Stored nodes of the Merkle tree, the installation's id, and the public keys that sign tree heads."""

from django.db import migrations, models

TABLES = """
create table merkle_node (
    level smallint not null check (level > 0),
    index bigint not null check (index >= 0),
    hash bytea not null check (length(hash) = 32),
    primary key (level, index)
);
comment on table merkle_node is
    'Roots of complete subtrees of 2^level leaves, at every eighth level; the leaves are in log.';

create table installation (
    only_one boolean primary key default true check (only_one),
    id uuid not null default gen_random_uuid(),
    made_at timestamptz not null default now()
);
insert into installation default values;

create table signing_key (
    verifier_key text primary key,
    adopted_at timestamptz not null default now()
);
comment on table signing_key is 'Every public key that ever signed tree heads, as C2SP signed-note writes it.';
"""

APPEND_ONLY = "\n".join(
    f"create trigger append_only before update or delete or truncate on {table} "
    f"for each statement execute function refuse_change();\n"
    f"alter table {table} enable always trigger append_only;"
    for table in ("merkle_node", "installation", "signing_key")
)

GRANTS = """
create or replace function grant_to_application(application name) returns void language plpgsql as $$
begin
    execute format('grant usage on schema public to %I', application);
    execute format('grant select, insert, update, delete on all tables in schema public to %I', application);
    execute format('grant usage, select on all sequences in schema public to %I', application);
    execute format('alter default privileges in schema public '
                   'grant select, insert, update, delete on tables to %I', application);
    execute format('alter default privileges in schema public '
                   'grant usage, select on sequences to %I', application);
    execute format('revoke update, delete on event, log, tick, tree_head, merkle_node, signing_key from %I',
                   application);
    execute format('revoke insert, update, delete on installation from %I', application);
    execute format('revoke update on blob from %I', application);
end $$;
do $$
begin
    if exists (select from pg_roles where rolname = 'cartrita_app') then
        perform grant_to_application('cartrita_app');
    end if;
end $$;
"""

# The function of grants names these tables: without them it is that of the migration before.
UNDO = """
drop table signing_key, installation, merkle_node;
create or replace function grant_to_application(application name) returns void language plpgsql as $$
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
"""


class Migration(migrations.Migration):
    dependencies = [("eventstore", "0001_event_log")]
    operations = [
        migrations.RunSQL(TABLES + APPEND_ONLY, UNDO),
        migrations.CreateModel(
            name="SigningKey",
            fields=[
                ("verifier_key", models.TextField(primary_key=True, serialize=False)),
                ("adopted_at", models.DateTimeField()),
            ],
            options={"managed": False, "db_table": "signing_key"},
        ),
        migrations.RunSQL(GRANTS, migrations.RunSQL.noop),
    ]
