"""People, and read-only pages of what events say about their rights."""

from typing import TYPE_CHECKING, ClassVar

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as StockUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm
from django.utils.translation import gettext_lazy as _

from cartrita.accounts.console import looked_after
from cartrita.accounts.models import ApiToken, Membership, User, Workspace
from cartrita.eventstore.admin import ReadOnlyAdmin, register_reach

if TYPE_CHECKING:
    _UserAdmin = StockUserAdmin[User]
    _CreationForm = AdminUserCreationForm[User]
else:
    # Neither takes a type argument at run time.
    _UserAdmin = StockUserAdmin
    _CreationForm = AdminUserCreationForm


register_reach(looked_after)


class NewUserForm(_CreationForm):
    """Address, name and password of a new person."""

    class Meta:
        """A person is named by an email address."""

        model = User
        fields = ("email", "display_name")

    def clean_email(self) -> str:
        """Return the address in lower case, as it is stored."""
        return str(self.cleaned_data["email"]).strip().lower()


@admin.register(User)
class UserAdmin(_UserAdmin):
    """People who may sign in."""

    add_form = NewUserForm
    list_display = ("email", "display_name", "is_staff", "is_active", "joined_at", "last_login")
    list_filter = ("is_staff", "is_superuser", "is_active", "groups")
    search_fields = ("email", "display_name")
    ordering = ("email",)
    readonly_fields = ("id", "joined_at", "last_login")
    fieldsets = (
        (None, {"fields": ("id", "email", "display_name", "password")}),
        (_("Rights"), {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        (_("Times"), {"fields": ("joined_at", "last_login")}),
    )
    add_fieldsets = (
        (
            None,
            {"fields": ("email", "display_name", "usable_password", "password1", "password2")},
        ),
    )


@admin.register(Workspace)
class WorkspaceAdmin(ReadOnlyAdmin):
    """The workspaces."""

    list_display = ("name", "id", "created_at")
    ordering = ("created_at", "id")
    search_fields = ("name",)


@admin.register(Membership)
class MembershipAdmin(ReadOnlyAdmin):
    """Who belongs to which workspace."""

    list_display = ("user_id", "workspace_id", "roles", "since")
    ordering = ("since", "id")


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin):
    """Tokens of programs; names stay sealed, secrets are nowhere."""

    list_display = ("id", "user_id", "workspace_id", "scopes", "created_at", "expires_at", "revoked_at")
    ordering = ("-created_at", "-id")
    fields: ClassVar[tuple[str, ...]] = (
        "id",
        "user_id",
        "workspace_id",
        "scopes",
        "created_at",
        "expires_at",
        "revoked_at",
    )
