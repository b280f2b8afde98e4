"""Who may do what: people as rows, everything about their rights as read models of events."""

import uuid
from typing import Any, ClassVar

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from cartrita.eventstore.fields import SealedTextField


class UserManager(BaseUserManager["User"]):
    """Make people; an email address is stored in lower case, so that it names one person."""

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """Return a new, stored user. Without a password only sign-in links and tokens let this person in."""
        user = self.model(email=email.strip().lower(), **fields)
        user.set_password(password)
        user.full_clean(exclude=["password"])
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """Return a new, stored user who may do everything in the admin."""
        return self.create_user(email, password, **{**fields, "is_staff": True, "is_superuser": True})

    def get_by_natural_key(self, username: str | None) -> "User":
        """Return the user of an email address, whatever its case."""
        return self.get(email=(username or "").strip().lower())


class User(AbstractBaseUser, PermissionsMixin):
    """A person. Events name people by id only, so this row is the one place of name and address."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(_("email address"), unique=True)
    display_name = models.CharField(_("name"), max_length=150, blank=True)
    is_staff = models.BooleanField(_("may use the governance console"), default=False)
    is_active = models.BooleanField(_("may sign in"), default=True)
    joined_at = models.DateTimeField(_("joined"), default=timezone.now, editable=False)
    # The database sets it, whoever changes `is_active` and however: four eyes count from then on.
    suspended_at = models.DateTimeField(_("may not sign in since"), null=True, editable=False)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        """One person per address, whatever its case."""

        db_table = "accounts_user"
        verbose_name = _("user")
        verbose_name_plural = _("users")
        constraints: ClassVar = [models.UniqueConstraint(Lower("email"), name="accounts_user_email_lower")]

    def __str__(self) -> str:
        return self.display_name or self.email

    def get_full_name(self) -> str:
        """Return the name to show."""
        return str(self)

    def get_short_name(self) -> str:
        """Return the name to show where there is little room."""
        return self.display_name.partition(" ")[0] or self.email.partition("@")[0]


class Workspace(models.Model):
    """Read model: the workspaces."""

    id = models.UUIDField(primary_key=True)
    name = models.CharField(_("name"), max_length=150)
    created_at = models.DateTimeField(_("created"))
    # What new budgets take.
    time_zone = models.CharField(_("time zone"), max_length=64, default="UTC", db_default="UTC")
    currency = models.CharField(_("currency"), max_length=3, default="USD", db_default="USD")
    version = models.PositiveIntegerField(_("version"), default=1, db_default=1)

    class Meta:
        """Rows are a function of the workspace's stream."""

        db_table = "accounts_workspace"
        verbose_name = _("workspace")
        verbose_name_plural = _("workspaces")

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    """Read model: who belongs to which workspace, with which roles. `id` is the membership's stream."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField(_("workspace"))
    user_id = models.UUIDField(_("user"))
    roles = models.JSONField(_("roles"))
    since = models.DateTimeField(_("since"))
    version = models.PositiveIntegerField(_("version"))

    class Meta:
        """Rows are a function of the membership's stream."""

        db_table = "accounts_membership"
        verbose_name = _("membership")
        verbose_name_plural = _("memberships")
        constraints: ClassVar = [
            models.UniqueConstraint("user_id", "workspace_id", name="accounts_membership_once")
        ]
        indexes: ClassVar = [models.Index("workspace_id", name="accounts_member_workspace")]


class RoleEnded(models.Model):
    """Read model: roles that people held in a workspace and hold no more, each time that they lost some."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField(_("workspace"))
    user_id = models.UUIDField(_("user"))
    roles = models.JSONField(_("roles"))
    ended_at = models.DateTimeField(_("ended"))

    class Meta:
        """Rows are a function of the membership's stream. Asked for those of the last days."""

        db_table = "accounts_role_ended"
        verbose_name = _("ended role")
        verbose_name_plural = _("ended roles")
        indexes: ClassVar = [models.Index("workspace_id", "ended_at", name="accounts_role_ended_lately")]


class Team(models.Model):
    """Read model: the teams of workspaces; `id` is the team's stream."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField(_("workspace"))
    name = models.CharField(_("name"), max_length=100)
    closed = models.BooleanField(_("closed"), default=False)
    created_at = models.DateTimeField(_("created"))
    version = models.PositiveIntegerField(_("version"))

    class Meta:
        """Rows are a function of the team's stream."""

        db_table = "accounts_team"
        verbose_name = _("team")
        verbose_name_plural = _("teams")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["workspace_id", "name"],
                condition=models.Q(closed=False),
                name="accounts_team_of_a_name",
            )
        ]

    def __str__(self) -> str:
        return self.name


class TeamMember(models.Model):
    """Read model: who is in which open team. `id` is derived from team and person."""

    id = models.UUIDField(primary_key=True)
    team_id = models.UUIDField(_("team"))
    workspace_id = models.UUIDField(_("workspace"))
    user_id = models.UUIDField(_("user"))
    since = models.DateTimeField(_("since"))

    class Meta:
        """Rows are a function of the team's stream. Every decision on a person's act looks their teams up."""

        db_table = "accounts_team_member"
        verbose_name = _("team member")
        verbose_name_plural = _("team members")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["team_id", "user_id"], name="accounts_team_member_once")
        ]
        indexes: ClassVar = [models.Index("user_id", "workspace_id", name="accounts_teams_of_person")]


class ApiToken(models.Model):
    """Read model: tokens of programs. The secret itself is nowhere, only its SHA-256."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField(_("workspace"))
    user_id = models.UUIDField(_("user"))
    key_id = models.UUIDField(_("data key"))
    name = SealedTextField(_("name"))
    scopes = models.JSONField(_("scopes"))
    secret_sha256 = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(_("created"))
    expires_at = models.DateTimeField(_("expires"))
    revoked_at = models.DateTimeField(_("revoked"), null=True)

    class Meta:
        """Rows are a function of the token's stream."""

        db_table = "accounts_api_token"
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")
        indexes: ClassVar = [models.Index("user_id", "created_at", name="accounts_api_token_user")]


class SocketTicket(models.Model):
    """A way to open one socket within 30 seconds. Not history: a redeemed or ended ticket is deleted."""

    secret_sha256 = models.CharField(max_length=64, primary_key=True)
    user_id = models.UUIDField()
    workspace_id = models.UUIDField()
    token_id = models.UUIDField(null=True)
    expires_at = models.DateTimeField()

    class Meta:
        """Found by the hash of what its holder shows."""

        db_table = "accounts_socket_ticket"
        indexes: ClassVar = [models.Index("expires_at", name="accounts_ticket_expiry")]


class SignInLink(models.Model):
    """A way to sign in once without a password. Not history: a used or ended link is deleted."""

    secret_sha256 = models.CharField(max_length=64, primary_key=True)
    user_id = models.UUIDField()
    expires_at = models.DateTimeField()

    class Meta:
        """Found by the hash of what its holder shows."""

        db_table = "accounts_sign_in_link"
        indexes: ClassVar = [models.Index("expires_at", name="accounts_link_expiry")]


class FailedSignIn(models.Model):
    """A failed sign-in, counted for a quarter of an hour. `subject` is a keyed hash, no address in clear."""

    subject = models.CharField(max_length=64)
    at = models.DateTimeField()

    class Meta:
        """Counted per subject since a time."""

        db_table = "accounts_failed_sign_in"
        indexes: ClassVar = [models.Index("subject", "at", name="accounts_failed_count")]
