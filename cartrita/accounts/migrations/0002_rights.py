from django.db import migrations, models

import cartrita.eventstore.fields


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_user"),
    ]

    operations = [
        migrations.CreateModel(
            name="Workspace",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=150, verbose_name="name")),
                ("created_at", models.DateTimeField(verbose_name="created")),
            ],
            options={
                "verbose_name": "workspace",
                "verbose_name_plural": "workspaces",
                "db_table": "accounts_workspace",
            },
        ),
        migrations.CreateModel(
            name="ApiToken",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("workspace_id", models.UUIDField(verbose_name="workspace")),
                ("user_id", models.UUIDField(verbose_name="user")),
                ("key_id", models.UUIDField(verbose_name="data key")),
                ("name", cartrita.eventstore.fields.SealedTextField(verbose_name="name")),
                ("scopes", models.JSONField(verbose_name="scopes")),
                ("secret_sha256", models.CharField(max_length=64, unique=True)),
                ("created_at", models.DateTimeField(verbose_name="created")),
                ("expires_at", models.DateTimeField(verbose_name="expires")),
                ("revoked_at", models.DateTimeField(null=True, verbose_name="revoked")),
            ],
            options={
                "verbose_name": "API token",
                "verbose_name_plural": "API tokens",
                "db_table": "accounts_api_token",
                "indexes": [
                    models.Index(models.F("user_id"), models.F("created_at"), name="accounts_api_token_user")
                ],
            },
        ),
        migrations.CreateModel(
            name="FailedSignIn",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("subject", models.CharField(max_length=64)),
                ("at", models.DateTimeField()),
            ],
            options={
                "db_table": "accounts_failed_sign_in",
                "indexes": [models.Index(models.F("subject"), models.F("at"), name="accounts_failed_count")],
            },
        ),
        migrations.CreateModel(
            name="Membership",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("workspace_id", models.UUIDField(verbose_name="workspace")),
                ("user_id", models.UUIDField(verbose_name="user")),
                ("roles", models.JSONField(verbose_name="roles")),
                ("since", models.DateTimeField(verbose_name="since")),
                ("version", models.PositiveIntegerField(verbose_name="version")),
            ],
            options={
                "verbose_name": "membership",
                "verbose_name_plural": "memberships",
                "db_table": "accounts_membership",
                "indexes": [models.Index(models.F("workspace_id"), name="accounts_member_workspace")],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("user_id"), models.F("workspace_id"), name="accounts_membership_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="SignInLink",
            fields=[
                ("secret_sha256", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("user_id", models.UUIDField()),
                ("expires_at", models.DateTimeField()),
            ],
            options={
                "db_table": "accounts_sign_in_link",
                "indexes": [models.Index(models.F("expires_at"), name="accounts_link_expiry")],
            },
        ),
        migrations.CreateModel(
            name="SocketTicket",
            fields=[
                ("secret_sha256", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("user_id", models.UUIDField()),
                ("workspace_id", models.UUIDField()),
                ("token_id", models.UUIDField(null=True)),
                ("expires_at", models.DateTimeField()),
            ],
            options={
                "db_table": "accounts_socket_ticket",
                "indexes": [models.Index(models.F("expires_at"), name="accounts_ticket_expiry")],
            },
        ),
    ]
