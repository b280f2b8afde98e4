"""The channel `session:<id>` and its commands."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from django.utils import timezone
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rest_framework.utils.encoders import JSONEncoder

from cartrita.accounts.consumers import SocketUser
from cartrita.accounts.permissions import ScopeMissing
from cartrita.accounts.queries import Caller, callers_again
from cartrita.errors import BadInput
from cartrita.eventstore import RecordedEvent, in_database_thread
from cartrita.streaming.registry import CommandCall, register_channel, register_command, register_recheck
from cartrita.streaming.together import Together
from sessions_app import commands, queries
from sessions_app.activity import note_open_sockets
from sessions_app.channel import describe
from sessions_app.session import SessionErased

SNAPSHOT_MESSAGES = 200

Arguments = TypeVar("Arguments", bound=BaseModel)


class PostMessage(BaseModel):
    """The arguments of `post_message`; the command's `cid` is the message's id where none is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    content: str
    message_id: UUID | None = None
    parent: UUID | None = None
    attachments: tuple[UUID, ...] = ()
    metadata: dict[str, Any] = Field(default_factory=dict)


class CancelTurn(BaseModel):
    """The arguments of `cancel_turn`; without `message_id` the newest unanswered message is meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    message_id: UUID | None = None


class SetTurnPolicy(BaseModel):
    """The arguments of `set_turn_policy`: queue, reject or interrupt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    turn_policy: str


async def authorise(user: SocketUser, channel_id: str) -> bool:
    """Tell whether this user may read the session now, and note that a socket shows it."""
    session_id = _session_id(channel_id)
    return session_id is not None and await _may_read((user.caller, session_id))


def feed(channel_id: str) -> dict[str, UUID]:
    """Return the part of the log that the channel shows."""
    return {"session_id": UUID(channel_id)}


async def snapshot(channel_id: str) -> dict[str, Any]:
    """Return the session with its newest 200 messages."""
    return await _newest(UUID(channel_id))


async def post_message(call: CommandCall) -> dict[str, Any]:
    """Post a message of the socket's user."""
    wanted = _arguments(PostMessage, call)
    message_id = wanted.message_id or call.cid
    session_id, caller = await in_database_thread(_writer, call)
    recorded = await in_database_thread(
        commands.post_message,
        session_id=session_id,
        message_id=message_id,
        content=wanted.content,
        parent=wanted.parent,
        attachments=wanted.attachments,
        metadata=wanted.metadata,
        actor=caller.actor,
        expected_version=call.expected_version,
        # Only people in the web open an expired session again.
        reopen=caller.token_id is None,
    )
    return {
        "message_id": str(message_id),
        "status": "queued",
        "version": recorded[-1].version if recorded else None,
    }


async def cancel_turn(call: CommandCall) -> dict[str, Any]:
    """Ask to stop an answer."""
    wanted = _arguments(CancelTurn, call)
    session_id, caller = await in_database_thread(_writer, call)
    recorded = await in_database_thread(
        commands.cancel_turn,
        session_id=session_id,
        message_id=wanted.message_id,
        actor=caller.actor,
        expected_version=call.expected_version,
    )
    return {"cancel_requested": bool(recorded)}


async def set_turn_policy(call: CommandCall) -> dict[str, Any]:
    """Choose what becomes of a message while another one is being answered."""
    wanted = _arguments(SetTurnPolicy, call)
    session_id, caller = await in_database_thread(_writer, call)
    await in_database_thread(
        commands.set_turn_policy,
        session_id=session_id,
        turn_policy=wanted.turn_policy,
        actor=caller.actor,
        expected_version=call.expected_version,
    )
    return {"turn_policy": wanted.turn_policy}


def ends_channel(recorded: RecordedEvent) -> UUID | None:
    """Return who erased a session, so that their sockets stop showing it at once."""
    kind, _, user_id = recorded.actor.partition(":")
    return UUID(user_id) if isinstance(recorded.event, SessionErased) and kind == "user" else None


async def _read_rights(asked: Sequence[tuple[Caller, UUID]]) -> Mapping[tuple[Caller, UUID], bool]:
    return await in_database_thread(_authorise, asked)


def _authorise(asked: Sequence[tuple[Caller, UUID]]) -> Mapping[tuple[Caller, UUID], bool]:
    """Tell who may read which session now, and note which are open: as many statements for one as for all."""
    now = timezone.now()
    present = callers_again({caller for caller, _ in asked}, now=now)
    readers = {
        one: present[one[0]] for one in asked if one[0] in present and "read" in present[one[0]].scopes
    }
    is_open = queries.readable({(session_id, caller) for (_, session_id), caller in readers.items()}, now=now)
    # People keep reading their history when it has expired; their next message opens it again.
    allowed = {
        one: caller.token_id is None or is_open[one[1], caller]
        for one, caller in readers.items()
        if (one[1], caller) in is_open
    }
    note_open_sockets({session_id for (session_id, _), still in is_open.items() if still}, now=now)
    return {one: allowed.get(one, False) for one in asked}


async def _read_newest(session_ids: Sequence[UUID]) -> Mapping[UUID, dict[str, Any]]:
    return {each: await in_database_thread(_snapshot, each) for each in session_ids}


def _snapshot(session_id: UUID) -> dict[str, Any]:
    messages = queries.newest_messages(session_id, SNAPSHOT_MESSAGES + 1)
    found = {
        "session": queries.session(session_id),
        "messages": messages[-SNAPSHOT_MESSAGES:],
        "older": len(messages) > SNAPSHOT_MESSAGES,
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, cls=JSONEncoder))
    return plain


def _writer(call: CommandCall) -> tuple[UUID, Caller]:
    """Return the session and who may write in it: its owner. Raises SessionNotFound, ScopeMissing."""
    caller: Caller = call.user.caller
    if "write" not in caller.scopes:
        raise ScopeMissing("This needs an API token with the scope 'write'.", scope="write")
    session_id = UUID(call.channel_id or "")
    # The channel may be read by others too.
    queries.visible_session(session_id, caller, own=True)
    return session_id, caller


def _session_id(channel_id: str) -> UUID | None:
    try:
        return UUID(channel_id)
    except ValueError:
        return None


def _arguments(model: type[Arguments], call: CommandCall) -> Arguments:
    try:
        return model.model_validate(call.args)
    except ValidationError as error:
        wrong = error.errors()[0]
        field = ".".join(str(part) for part in wrong["loc"])
        raise BadInput(f"args.{field}: {wrong['msg']}.", field=f"args.{field}") from None


# Many look at one session, or come back at once after a restart; everybody is asked again every minute.
_may_read = Together(_read_rights)
_newest = Together(_read_newest, limit=1, at_once=4)

register_channel("session", authorise=authorise, feed=feed, snapshot=snapshot, describe=describe, deltas=True)
register_command("post_message", handler=post_message, kind="session")
register_command("cancel_turn", handler=cancel_turn, kind="session")
register_command("set_turn_policy", handler=set_turn_policy, kind="session")
register_recheck(ends_channel)
