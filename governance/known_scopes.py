"""What budgets may be for: the apps above this one tell of their sessions, tasks, agents and models."""

from collections.abc import Callable, Collection
from difflib import get_close_matches
from typing import ClassVar
from uuid import UUID

from cartrita.errors import BadInput

Exists = Callable[[UUID, UUID], bool]
Names = Callable[[], Collection[str]]

_exists: dict[str, Exists] = {}
_names: dict[str, Names] = {}


class UnknownScope(BadInput):
    """There is nothing of that id or name that a budget could be for."""

    code: ClassVar[str] = "unknown_scope"


def register_ids(scope_kind: str, exists: Exists) -> None:
    """Register what tells whether a workspace has a session or task of an id: `exists(workspace_id, id)`."""
    _exists[scope_kind] = exists


def register_names(scope_kind: str, names: Names) -> None:
    """Register what lists the names of all agents or models."""
    _names[scope_kind] = names


def known_names(scope_kind: str) -> list[str]:
    """Return the names of all agents or models, in order."""
    return sorted(_names[scope_kind]()) if scope_kind in _names else []


def require_known(scope_kind: str, scope: str, workspace_id: UUID) -> None:
    """Raise UnknownScope where a session, task, agent or model is known not to exist, naming the nearest."""
    if scope_kind in _exists and not _exists[scope_kind](workspace_id, UUID(scope)):
        raise UnknownScope(f"There is no {scope_kind} {scope} in this workspace.", field="scope")
    if scope_kind not in _names:
        return
    known = known_names(scope_kind)
    if scope in known:
        return
    near = get_close_matches(scope.casefold(), known, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(known[:20])}."
    raise UnknownScope(f"There is no {scope_kind} {scope!r}; {meant}", field="scope", known=known)
