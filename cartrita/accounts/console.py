"""Who may look at what in the governance console: roles in workspaces as permissions of Django's admin."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.contrib.auth.backends import BaseBackend

from cartrita.accounts.models import Membership, User, Workspace
from cartrita.accounts.queries import Caller, caller_in_workspace
from cartrita.eventstore.admin import as_uuid

# Roles whose holders look after a workspace.
CONSOLE_ROLES: frozenset[str] = frozenset({"reviewer", "operator", "admin", "policy_author", "auditor"})
# The apps whose read-only pages they see.
CONSOLE_APPS: frozenset[str] = frozenset(
    {"eventstore", "governance", "llm", "retrieval", "sessions_app", "tasks_app"}
)
# Pages of other apps that they see.
CONSOLE_PAGES: frozenset[str] = frozenset({"accounts.view_team"})

# Who may change what there; an approval names its approvers' roles itself.
POLICY_ROLES: frozenset[str] = frozenset({"policy_author", "admin"})
BUDGET_ROLES: frozenset[str] = frozenset({"operator", "admin"})
TEAM_ROLES: frozenset[str] = frozenset({"admin"})


class ConsoleRoles(BaseBackend):
    """Lets staff with such a role in some workspace view the read-only pages; it signs nobody in."""

    def has_perm(self, user_obj: Any, perm: str, obj: Any = None) -> bool:
        """Tell whether `perm` (`app.view_model`) is to look at one of those pages."""
        del obj
        app, _, action = perm.partition(".")
        shown = perm in CONSOLE_PAGES or (app in CONSOLE_APPS and action.startswith("view_"))
        return shown and self._looks_after_any(user_obj)

    def has_module_perms(self, user_obj: Any, app_label: str) -> bool:
        """Tell whether any page of the app is open to the person."""
        apps = CONSOLE_APPS | {page.partition(".")[0] for page in CONSOLE_PAGES}
        return app_label in apps and self._looks_after_any(user_obj)

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


def workspaces_with(user: Any, roles: frozenset[str]) -> frozenset[UUID]:
    """Return the workspaces in which the person has one of these roles."""
    rows = Membership.objects.filter(user_id=user.pk).values_list("workspace_id", "roles")
    return frozenset(workspace_id for workspace_id, held in rows if roles & set(held))


def workspaces_for(user: Any) -> list[Workspace]:
    """Return the workspaces whose rows the console shows to this person, by name; a superuser sees all."""
    rows = Workspace.objects.order_by("name", "id")
    return list(rows if user.is_superuser else rows.filter(id__in=looked_after(user)))


def console_caller(user: Any, workspace_id: UUID) -> Caller | None:
    """Return the person as a caller in that workspace; None without one of the console's roles there."""
    caller = caller_in_workspace(user.pk, workspace_id)
    return caller if caller and caller.roles & CONSOLE_ROLES else None


def names_of(actors: Iterable[str]) -> dict[str, str]:
    """Return what to call actors of events: people by name or address, all others as they are."""
    called = dict.fromkeys(actors)
    ids = {actor: as_uuid(actor.removeprefix("user:")) for actor in called if actor.startswith("user:")}
    people = {user.pk: str(user) for user in User.objects.filter(id__in=filter(None, ids.values()))}
    return {actor: people.get(id_, actor) if (id_ := ids.get(actor)) else actor for actor in called}
