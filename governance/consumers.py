"""The channel `approvals:<workspace_id>`, the live inbox, and the socket commands on requests for approval.

The commands name no channel, so that they work beside the inbox and on a conversation's card alike, for whom
holds the role.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from django.utils import timezone
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from rest_framework.utils.encoders import JSONEncoder

from cartrita.accounts.console import CONSOLE_ROLES
from cartrita.accounts.consumers import SocketUser
from cartrita.accounts.permissions import ScopeMissing
from cartrita.accounts.queries import Caller, caller_again, caller_in_workspace
from cartrita.errors import BadInput, NotSignedIn
from cartrita.eventstore import RecordedEvent, Unreadable, in_database_thread
from cartrita.streaming.registry import CommandCall, register_channel, register_command
from governance.approval import ApprovalNotFound, GrantScope
from governance.commands import approvals as commands
from governance.queries import approvals as queries

SNAPSHOT_APPROVALS = 200
# Which events it shows, by the beginning of their type, and what it calls their stream.
_STREAMS = {"governance.Approval": "approval_id", "governance.BreakGlass": "glass_id"}

Arguments = TypeVar("Arguments", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    approval_id: UUID


class Approve(_Strict):
    """The arguments of `approve`."""

    scope: GrantScope = "once"
    pattern: dict[str, str] | None = None
    valid_until: AwareDatetime | None = None
    text: str = ""


class Deny(_Strict):
    """The arguments of `deny`."""

    text: str = ""


class Note(_Strict):
    """The arguments of `ask`, `comment` and `answer`."""

    text: str


class Edit(_Strict):
    """The arguments of `edit_arguments`."""

    arguments: dict[str, Any]


async def authorise(user: SocketUser, channel_id: str) -> bool:
    """Tell whether this user looks after that workspace now."""
    try:
        workspace_id = UUID(channel_id)
    except ValueError:
        return False
    return await in_database_thread(_authorise, user.caller, workspace_id)


def feed(channel_id: str) -> dict[str, UUID]:
    """Return the part of the log that the channel shows."""
    return {"workspace_id": UUID(channel_id)}


async def snapshot(channel_id: str) -> dict[str, Any]:
    """Return the newest 200 requests that wait, without what is sealed."""
    return await in_database_thread(_snapshot, UUID(channel_id))


def describe(recorded: RecordedEvent) -> dict[str, Any] | None:
    """Return what stands in clear of the event of an approval, or of break-glass, which is told to all here.

    Arguments and texts are asked for over REST.
    """
    streams = (name for begin, name in _STREAMS.items() if recorded.type_name.startswith(begin))
    stream = next(streams, None)
    if stream is None or isinstance(recorded.event, Unreadable):
        return None
    shown = recorded.event.model_dump(mode="json", exclude=set(recorded.sealed))
    return {
        **shown,
        stream: str(recorded.stream_id),
        "session_id": str(recorded.session_id) if recorded.session_id else None,
        "version": recorded.version,
    }


async def approve(call: CommandCall) -> dict[str, Any]:
    """Say yes."""
    return await _handled(call, Approve, commands.approve, versioned=True)


async def deny(call: CommandCall) -> dict[str, Any]:
    """Say no."""
    return await _handled(call, Deny, commands.deny, versioned=True)


async def ask(call: CommandCall) -> dict[str, Any]:
    """Ask the requester something."""
    return await _handled(call, Note, commands.ask)


async def comment(call: CommandCall) -> dict[str, Any]:
    """Comment a request."""
    return await _handled(call, Note, commands.comment)


async def answer(call: CommandCall) -> dict[str, Any]:
    """Answer as the requester."""
    return await _handled(call, Note, commands.answer)


async def edit_arguments(call: CommandCall) -> dict[str, Any]:
    """Put other arguments in place."""
    return await _handled(call, Edit, commands.edit_arguments, versioned=True)


async def _handled(
    call: CommandCall,
    model: type[_Strict],
    command: Callable[..., list[RecordedEvent]],
    *,
    versioned: bool = False,
) -> dict[str, Any]:
    wanted = dict(_arguments(model, call))
    if versioned:
        wanted["expected_version"] = call.expected_version
    return await in_database_thread(_carry_out, call, command, wanted)


def _carry_out(
    call: CommandCall, command: Callable[..., list[RecordedEvent]], wanted: dict[str, Any]
) -> dict[str, Any]:
    approval_id: UUID = wanted["approval_id"]
    caller = _caller(call.user.caller, approval_id)
    command(caller=caller, command_id=call.cid, **wanted)
    row = queries.visible_row(approval_id, caller)
    return {"approval_id": str(row.id), "status": row.status, "version": row.version}


def _caller(caller: Caller, approval_id: UUID) -> Caller:
    """Return who asks, with the rights of now: people in the workspace of the request, programs in their own.

    Raises NotSignedIn, ScopeMissing, ApprovalNotFound.
    """
    present = caller_again(caller, now=timezone.now())
    if present is None:
        raise NotSignedIn("You belong to this workspace no more.")
    if "write" not in present.scopes:
        raise ScopeMissing("This needs an API token with the scope 'write'.", scope="write")
    if present.token_id is not None:
        return present
    workspace_id = queries.workspace_of(approval_id)
    elsewhere = caller_in_workspace(present.user_id, workspace_id)
    if elsewhere is None:
        raise ApprovalNotFound("There is no such approval.", field="approval_id")
    return elsewhere


def _authorise(caller: Caller, workspace_id: UUID) -> bool:
    if caller.token_id is not None:
        present = caller_again(caller, now=timezone.now())
        if present is None or present.workspace_id != workspace_id or "read" not in present.scopes:
            return False
    else:
        present = caller_in_workspace(caller.user_id, workspace_id)
    return present is not None and bool(present.roles & CONSOLE_ROLES)


def _snapshot(workspace_id: UUID) -> dict[str, Any]:
    found = {"waiting": queries.waiting(workspace_id, limit=SNAPSHOT_APPROVALS)}
    plain: dict[str, Any] = json.loads(json.dumps(found, cls=JSONEncoder))
    return plain


def _arguments(model: type[Arguments], call: CommandCall) -> Arguments:
    try:
        return model.model_validate(call.args)
    except ValidationError as error:
        wrong = error.errors()[0]
        field = ".".join(str(part) for part in wrong["loc"])
        raise BadInput(f"args.{field}: {wrong['msg']}.", field=f"args.{field}") from None


register_channel("approvals", authorise=authorise, feed=feed, snapshot=snapshot, describe=describe)
register_command("approve", handler=approve)
register_command("deny", handler=deny)
register_command("ask", handler=ask)
register_command("comment", handler=comment)
register_command("answer", handler=answer)
register_command("edit_arguments", handler=edit_arguments)
