"""Since when people may not sign in, and which roles ended when: what four eyes are counted from."""

import json
from typing import Any
from uuid import uuid5

from django.db import migrations, models

# By the database, so that no way of changing `is_active` goes past it, and nobody dates it back.
TRIGGER = """
create function accounts_set_suspended_at() returns trigger language plpgsql as $$
begin
    if new.is_active then
        new.suspended_at := null;
    elsif tg_op = 'INSERT' or old.is_active then
        new.suspended_at := now();
    else
        new.suspended_at := old.suspended_at;
    end if;
    return new;
end
$$;
create trigger accounts_suspended before insert or update on accounts_user
    for each row execute function accounts_set_suspended_at();
"""
DROP = """
drop trigger accounts_suspended on accounts_user;
drop function accounts_set_suspended_at();
"""


def end_roles_of_before(apps: Any, schema_editor: Any) -> None:
    """Write down the roles that ended before there was a table of them, as its projection does."""
    rows = apps.get_model("accounts", "RoleEnded").objects
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(
            """
            select stream_id, version, type, recorded_at, workspace_id, data from event
            where type in ('accounts.MemberAdded', 'accounts.MemberRolesChanged', 'accounts.MemberRemoved')
            order by stream_id, version
            """
        )
        held: dict[Any, list[str]] = {}
        for stream_id, version, _, recorded_at, workspace_id, data in cursor.fetchall():
            event = json.loads(bytes(data))
            roles = event.get("roles", [])
            ended = [role for role in held.get(stream_id, []) if role not in roles]
            held[stream_id] = roles
            if ended:
                rows.create(
                    id=uuid5(stream_id, f"ended:{version}"),
                    workspace_id=workspace_id,
                    user_id=event["user_id"],
                    roles=ended,
                    ended_at=recorded_at,
                )


class Migration(migrations.Migration):
    dependencies = [("accounts", "0003_teams"), ("eventstore", "0001_event_log")]

    operations = [
        migrations.AddField(
            model_name="user",
            name="suspended_at",
            field=models.DateTimeField(editable=False, null=True, verbose_name="may not sign in since"),
        ),
        # Since when is known of nobody: from now on at the latest.
        migrations.RunSQL(
            "update accounts_user set suspended_at = now() where not is_active", migrations.RunSQL.noop
        ),
        migrations.RunSQL(TRIGGER, DROP),
        migrations.CreateModel(
            name="RoleEnded",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("workspace_id", models.UUIDField(verbose_name="workspace")),
                ("user_id", models.UUIDField(verbose_name="user")),
                ("roles", models.JSONField(verbose_name="roles")),
                ("ended_at", models.DateTimeField(verbose_name="ended")),
            ],
            options={
                "verbose_name": "ended role",
                "verbose_name_plural": "ended roles",
                "db_table": "accounts_role_ended",
                "indexes": [
                    models.Index(
                        models.F("workspace_id"), models.F("ended_at"), name="accounts_role_ended_lately"
                    )
                ],
            },
        ),
        migrations.RunPython(end_roles_of_before, migrations.RunPython.noop),
    ]
