"""What the chat says of break-glass: that it is in force for a session, and which answers it let pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from cartrita.accounts.console import CONSOLE_ROLES, names_of
from cartrita.accounts.models import User
from cartrita.accounts.queries import Caller
from governance.queries import break_glass as queries
from governance.visible_text import shown
from sessions_app.queries import messages

SCOPES: "Mapping[str, Promise]" = {
    "workspace": _("the whole workspace"),
    "session": _("this session"),
    "user": _("the person whose session this is"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Break-glass that is in force for a session.

    The reason is for those who look after the workspace, as everywhere; it is empty for others.
    `console_address` is empty for who has no console.
    """

    by: str
    scope: "Promise"
    until: datetime
    reason: str
    console_address: str


def notices(session: Mapping[str, Any], user: User, caller: Caller, *, now: datetime) -> list[Notice]:
    """Return what a session's page tells this person of the break-glass in force for its acts."""
    rows = queries.in_force_for(
        session["workspace_id"], session_id=session["id"], requester_id=session["user_id"], at=now
    )
    names = names_of([row.by for row in rows])
    told = bool(caller.roles & CONSOLE_ROLES)
    console = user.is_staff and user.has_perm("governance.view_breakglass")
    return [
        Notice(
            by=names[row.by],
            scope=SCOPES[row.scope_kind],
            until=row.until,
            reason=shown(row.reason) if told else "",
            console_address=reverse("admin:governance_breakglass_change", args=[row.pk]) if console else "",
        )
        for row in rows
    ]


def tell_passed(session: Mapping[str, Any], replies: Sequence[dict[str, Any]]) -> None:
    """Add to each reply how many acts of its turn went ahead because of break-glass.

    The turns of a session follow one another: what was decided since the message was posted and since the
    reply before belongs to this one.
    """
    passed = queries.passed_at(session["workspace_id"], session["id"])
    if not passed:
        return
    said = {each["message_id"]: each for each in messages(session["id"])}
    ends = sorted(each["created_at"] for each in said.values() if each["role"] == "assistant")
    for reply in replies:
        parent: UUID | None = reply["parent"]
        if reply["role"] != "assistant" or parent not in said:
            continue
        end = reply["created_at"]
        begin = max([said[parent]["created_at"], *(each for each in ends if each < end)])
        reply["let_pass"] = sum(begin <= each <= end for each in passed)
