"""Read models of sessions and their messages: functions of each session's stream."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from cartrita.eventstore.fields import SealedTextField


class ChatSession(models.Model):
    """A session. `opening` is the text of its first message, by which people recognise it."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField(_("workspace"))
    user_id = models.UUIDField(_("user"))
    key_id = models.UUIDField(_("data key"))
    kind = models.CharField(_("kind"), max_length=20)
    status = models.CharField(_("status"), max_length=10)
    turn_policy = models.CharField(_("turn policy"), max_length=10, default="queue", db_default="queue")
    metadata = SealedTextField(_("metadata"), blank=True)
    opening = SealedTextField(_("first message"), blank=True)
    message_count = models.PositiveIntegerField(_("messages"), default=0)
    version = models.PositiveIntegerField(_("version"))
    created_at = models.DateTimeField(_("created"))
    last_activity_at = models.DateTimeField(_("last activity"))

    class Meta:
        """Listed by owner, newest activity first; idle ones are looked for by status."""

        db_table = "chat_session"
        verbose_name = _("session")
        verbose_name_plural = _("sessions")
        indexes: ClassVar = [
            models.Index("workspace_id", "user_id", "created_at", name="chat_session_owner"),
            models.Index("status", "last_activity_at", name="chat_session_idle"),
        ]

    def __str__(self) -> str:
        """Return which session it is; its title is sealed."""
        return f"session {self.id}"


class Message(models.Model):
    """A message of a session; `id` is its event's id, `message_id` the id by which the session knows it."""

    id = models.UUIDField(primary_key=True)
    session_id = models.UUIDField(_("session"))
    workspace_id = models.UUIDField(_("workspace"))
    message_id = models.UUIDField(_("message id"))
    version = models.PositiveIntegerField(_("version"))
    parent_id = models.UUIDField(_("answers"), null=True)
    role = models.CharField(_("role"), max_length=10)
    author = models.CharField(_("author"), max_length=200)
    key_id = models.UUIDField(_("data key"))
    content = SealedTextField(_("text"), blank=True)
    metadata = SealedTextField(_("metadata"), blank=True)
    citations = SealedTextField(_("citations"), blank=True)
    attachments = models.JSONField(_("attachments"), default=list)
    plan_id = models.UUIDField(_("plan"), null=True)
    run_id = models.UUIDField(_("run"), null=True)
    model = models.CharField(_("model"), max_length=200, blank=True)
    outcome = models.CharField(_("outcome"), max_length=10, blank=True)
    answered_at = models.DateTimeField(_("answered"), null=True)
    cancel_requested_at = models.DateTimeField(_("asked to stop"), null=True)
    created_at = models.DateTimeField(_("created"))

    class Meta:
        """Read in the order of the session's stream."""

        db_table = "conversation_messages"
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        constraints: ClassVar = [
            models.UniqueConstraint("session_id", "message_id", name="conversation_message_once"),
            models.UniqueConstraint("session_id", "version", name="conversation_message_order"),
        ]
        indexes: ClassVar = [
            models.Index(
                "session_id",
                condition=models.Q(role="user", answered_at=None),
                name="conversation_message_waiting",
            ),
        ]


class SessionPresence(models.Model):
    """When a session's channel was last seen open on a socket. A sign of life, no history."""

    session_id = models.UUIDField(primary_key=True)
    seen_at = models.DateTimeField()

    class Meta:
        """Looked up by session."""

        db_table = "session_presence"
