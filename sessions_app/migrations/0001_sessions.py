from django.db import migrations, models

import cartrita.eventstore.fields


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="SessionPresence",
            fields=[
                ("session_id", models.UUIDField(primary_key=True, serialize=False)),
                ("seen_at", models.DateTimeField()),
            ],
            options={
                "db_table": "session_presence",
            },
        ),
        migrations.CreateModel(
            name="ChatSession",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("workspace_id", models.UUIDField(verbose_name="workspace")),
                ("user_id", models.UUIDField(verbose_name="user")),
                ("key_id", models.UUIDField(verbose_name="data key")),
                ("kind", models.CharField(max_length=20, verbose_name="kind")),
                ("status", models.CharField(max_length=10, verbose_name="status")),
                ("metadata", cartrita.eventstore.fields.SealedTextField(blank=True, verbose_name="metadata")),
                (
                    "opening",
                    cartrita.eventstore.fields.SealedTextField(blank=True, verbose_name="first message"),
                ),
                ("message_count", models.PositiveIntegerField(default=0, verbose_name="messages")),
                ("version", models.PositiveIntegerField(verbose_name="version")),
                ("created_at", models.DateTimeField(verbose_name="created")),
                ("last_activity_at", models.DateTimeField(verbose_name="last activity")),
            ],
            options={
                "verbose_name": "session",
                "verbose_name_plural": "sessions",
                "db_table": "chat_session",
                "indexes": [
                    models.Index(
                        models.F("workspace_id"),
                        models.F("user_id"),
                        models.F("created_at"),
                        name="chat_session_owner",
                    ),
                    models.Index(models.F("status"), models.F("last_activity_at"), name="chat_session_idle"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Message",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("session_id", models.UUIDField(verbose_name="session")),
                ("workspace_id", models.UUIDField(verbose_name="workspace")),
                ("message_id", models.UUIDField(verbose_name="message id")),
                ("version", models.PositiveIntegerField(verbose_name="version")),
                ("parent_id", models.UUIDField(null=True, verbose_name="answers")),
                ("role", models.CharField(max_length=10, verbose_name="role")),
                ("author", models.CharField(max_length=200, verbose_name="author")),
                ("key_id", models.UUIDField(verbose_name="data key")),
                ("content", cartrita.eventstore.fields.SealedTextField(blank=True, verbose_name="text")),
                ("metadata", cartrita.eventstore.fields.SealedTextField(blank=True, verbose_name="metadata")),
                (
                    "citations",
                    cartrita.eventstore.fields.SealedTextField(blank=True, verbose_name="citations"),
                ),
                ("attachments", models.JSONField(default=list, verbose_name="attachments")),
                ("plan_id", models.UUIDField(null=True, verbose_name="plan")),
                ("run_id", models.UUIDField(null=True, verbose_name="run")),
                ("model", models.CharField(blank=True, max_length=200, verbose_name="model")),
                ("outcome", models.CharField(blank=True, max_length=10, verbose_name="outcome")),
                ("cancel_requested_at", models.DateTimeField(null=True, verbose_name="asked to stop")),
                ("created_at", models.DateTimeField(verbose_name="created")),
            ],
            options={
                "verbose_name": "message",
                "verbose_name_plural": "messages",
                "db_table": "conversation_messages",
                "constraints": [
                    models.UniqueConstraint(
                        models.F("session_id"), models.F("message_id"), name="conversation_message_once"
                    ),
                    models.UniqueConstraint(
                        models.F("session_id"), models.F("version"), name="conversation_message_order"
                    ),
                ],
            },
        ),
    ]
