"""Who may look at what in the governance console: roles in workspaces as permissions of Django's admin."""

from typing import Any
from uuid import UUID

from django.contrib.auth.backends import BaseBackend

from cartrita.accounts.models import Membership, User

# Roles whose holders look after a workspace.
CONSOLE_ROLES: frozenset[str] = frozenset({"reviewer", "operator", "admin", "policy_author", "auditor"})
# The apps whose read-only pages they see.
CONSOLE_APPS: frozenset[str] = frozenset(
    {"eventstore", "governance", "llm", "retrieval", "sessions_app", "tasks_app"}
)


class ConsoleRoles(BaseBackend):
    """Lets staff with such a role in some workspace view the read-only pages; it signs nobody in."""

    def has_perm(self, user_obj: Any, perm: str, obj: Any = None) -> bool:
        """Tell whether `perm` (`app.view_model`) is to look at one of those pages."""
        del obj
        app, _, action = perm.partition(".")
        return app in CONSOLE_APPS and action.startswith("view_") and self._looks_after_any(user_obj)

    def has_module_perms(self, user_obj: Any, app_label: str) -> bool:
        """Tell whether any page of the app is open to the person."""
        return app_label in CONSOLE_APPS and self._looks_after_any(user_obj)

    def _looks_after_any(self, user: Any) -> bool:
        return bool(user.is_active and getattr(user, "is_staff", False) and looked_after(user))


def looked_after(user: User) -> frozenset[UUID]:
    """Return the workspaces in which the person has one of the console's roles."""
    known: frozenset[UUID] | None = getattr(user, "_looked_after", None)
    if known is None:
        rows = Membership.objects.filter(user_id=user.pk).values_list("workspace_id", "roles")
        known = frozenset(workspace_id for workspace_id, roles in rows if CONSOLE_ROLES & set(roles))
        # A user object lives as long as its request.
        user._looked_after = known  # type: ignore[attr-defined] # noqa: SLF001 - as Django caches permissions
    return known
