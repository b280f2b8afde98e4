"""Which blobs events name, so that only what nothing names is ever removed; the rights of three roles."""

import django.db.models.functions.datetime
from django.db import migrations, models

TABLES = """
alter table blob add column put_at timestamptz not null default now();
comment on column blob.put_at is 'When it was stored last: what nothing names yet is kept for a while from then on.';
alter table blob add column before bytea;
comment on column blob.before is 'The link before it, where the blob is one of a chain.';
alter table blob add constraint blob_before foreign key (before) references blob (sha256);
create index blob_before on blob (before) where before is not null;
create index blob_put_at on blob (put_at);

create table blob_reference (
    sha256 bytea primary key check (length(sha256) = 32),
    position bigint not null,
    key_id uuid
);
comment on table blob_reference is
    'Blobs that an event names, itself or through another blob, with the first such position and its key.';

create table blob_scan (
    only_one boolean primary key default true check (only_one),
    position bigint not null default 0
);
comment on table blob_scan is 'The position up to which blob_reference holds what events name.';
insert into blob_scan default values;

create function refuse_to_lose_blob() returns trigger language plpgsql as $$
begin
    if exists (select from blob_reference where sha256 = old.sha256)
        and not exists (select from data_key where key_id = old.key_id and wrapped is null)
    then
        raise exception 'the blob % is named by an event and not erased', encode(old.sha256, 'hex')
            using errcode = 'restrict_violation';
    end if;
    return old;
end $$;
create trigger keep_named before delete on blob for each row execute function refuse_to_lose_blob();
alter table blob enable always trigger keep_named;
create trigger keep_all before truncate on blob for each statement execute function refuse_change();
alter table blob enable always trigger keep_all;
"""

UNDO = """
drop trigger keep_all on blob;
drop trigger keep_named on blob;
drop function refuse_to_lose_blob();
drop table blob_scan, blob_reference;
alter table blob drop column before, drop column put_at;
"""

# Tables of other apps are named here by their names only. What a table is not named in, its role cannot do:
# `grant_to_reader` goes by a list of what may be read, so that a table that is new is not read by accident.
GRANTS = """
create or replace function grant_to_application(application name) returns void language plpgsql as $$
declare
    facts constant text :=
        'event, log, tick, tree_head, merkle_node, signing_key, installation, blob_reference';
begin
    execute format('grant usage on schema public to %I', application);
    execute format('revoke create on schema public from %I', application);
    execute format('grant select, insert, update, delete on all tables in schema public to %I', application);
    execute format('revoke truncate, references, trigger on all tables in schema public from %I', application);
    execute format('grant usage, select on all sequences in schema public to %I', application);
    execute format('alter default privileges in schema public '
                   'grant select, insert, update, delete on tables to %I', application);
    execute format('alter default privileges in schema public '
                   'grant usage, select on sequences to %I', application);
    execute format('revoke update, delete on ' || facts || ' from %I', application);
    execute format('revoke insert on installation from %I', application);
    execute format('revoke insert, delete on blob_scan from %I', application);
    -- A key is made and destroyed, never taken away; nothing but its content and end changes.
    execute format('revoke update, delete on subject_key, data_key from %I', application);
    execute format('grant update (wrapped, master_key_id, erased_at) on subject_key to %I', application);
    execute format('grant update (wrapped, erased_at) on data_key to %I', application);
    -- What a blob holds never changes; its row says when it was stored last.
    execute format('revoke update on blob from %I', application);
    execute format('grant update (put_at, before) on blob to %I', application);
    -- Which default privileges gave it.
    execute format('revoke execute on function grant_to_application(name), grant_to_reader(name), '
                   'grant_to_backup(name), grant_to_roles() from %I', application);
    if to_regclass('public.django_migrations') is not null then
        execute format('revoke insert, update, delete on django_migrations from %I', application);
    end if;
end $$;

create function grant_to_reader(reader name) returns void language plpgsql as $$
declare
    readable constant text[] := array[
        'event', 'log', 'tick', 'tree_head', 'merkle_node', 'signing_key', 'installation', 'ordered_event',
        'projection_checkpoint', 'blob_reference', 'accounts_workspace', 'accounts_membership',
        'chat_session', 'conversation_messages', 'session_presence', 'plans', 'plan_bill_lines', 'tasks',
        'task_edges', 'runs', 'graph_snapshots', 'tool_capability_days', 'policy_decisions',
        'governance_approval', 'governance_approval_note', 'governance_budget', 'governance_budget_balance',
        'governance_label_set', 'governance_policy_rule', 'governance_policy_version', 'governance_rulebook',
        'retrieval_collections', 'retrieval_documents', 'llm_model', 'llm_price', 'llm_circuit',
        'orchestrator_metric_count', 'upkeep_job', 'django_migrations'];
    -- Of these without what is in clear, or opens something.
    in_part constant text[][] := array[
        array['blob', 'sha256, key_id, created_at, put_at, before'],
        array['accounts_user', 'id, is_active, is_staff, is_superuser, joined_at'],
        array['retrieval_metrics', 'id, workspace_id, session_id, key_id, k_initial, k_rerank, '
              'retrieval_latency_ms, rerank_latency_ms, usefulness_score, context_tokens_before, '
              'context_tokens_after, compression_ratio, documents_retrieved, documents_used, pipeline, '
              'timings_ms, created_at']];
    one text;
    part text[];
begin
    execute format('grant usage on schema public to %I', reader);
    execute format('revoke create on schema public from %I', reader);
    execute format('revoke all on all tables in schema public from %I', reader);
    execute format('revoke all on all sequences in schema public from %I', reader);
    foreach one in array readable loop
        if to_regclass('public.' || one) is not null then
            execute format('grant select on %I to %I', one, reader);
        end if;
    end loop;
    foreach part slice 1 in array in_part loop
        if to_regclass('public.' || part[1]) is not null then
            execute format('grant select (' || part[2] || ') on %I to %I', part[1], reader);
        end if;
    end loop;
end $$;

create function grant_to_backup(backup name) returns void language plpgsql as $$
begin
    execute format('grant usage on schema public to %I', backup);
    execute format('revoke create on schema public from %I', backup);
    execute format('revoke all on all tables in schema public from %I', backup);
    execute format('grant select on all tables in schema public to %I', backup);
    execute format('grant select on all sequences in schema public to %I', backup);
    execute format('alter default privileges in schema public grant select on tables to %I', backup);
    execute format('alter default privileges in schema public grant select on sequences to %I', backup);
end $$;

create function grant_to_roles() returns void language plpgsql as $$
begin
    if exists (select from pg_roles where rolname = 'cartrita_app') then
        perform grant_to_application('cartrita_app');
    end if;
    if exists (select from pg_roles where rolname = 'cartrita_reader') then
        perform grant_to_reader('cartrita_reader');
    end if;
    if exists (select from pg_roles where rolname = 'cartrita_backup') then
        perform grant_to_backup('cartrita_backup');
    end if;
end $$;
comment on function grant_to_application(name) is
    'Gives the role that serves its rights; call it as owner when the role was made after the tables.';
comment on function grant_to_reader(name) is
    'Lets a role read what holds neither keys, tokens, bodies nor text in clear; call it as owner.';
comment on function grant_to_backup(name) is 'Lets a role read everything and change nothing; call it as owner.';
comment on function grant_to_roles() is 'Gives the roles of the usual names their rights; each migrate ends with it.';
revoke execute on function grant_to_application(name), grant_to_reader(name), grant_to_backup(name),
    grant_to_roles() from public;
select grant_to_roles();
"""

# That of 0002: what it gives stands, but for what the columns and tables that go had.
UNDO_GRANTS = """
drop function grant_to_roles();
drop function grant_to_backup(name);
drop function grant_to_reader(name);
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
"""


class Migration(migrations.Migration):
    dependencies = [("eventstore", "0002_proofs")]
    operations = [
        migrations.RunSQL(
            TABLES,
            UNDO,
            state_operations=[
                migrations.AddField(
                    "blob",
                    "put_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
                ),
                migrations.AddField("blob", "before", models.BinaryField(null=True)),
            ],
        ),
        migrations.RunSQL(GRANTS, UNDO_GRANTS),
    ]
