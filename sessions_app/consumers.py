"""The channel `session:<id>` and its commands."""

import json
from typing import Any, TypeVar
from uuid import UUID

from django.utils import timezone
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rest_framework.utils.encoders import JSONEncoder

from cartrita.accounts.consumers import SocketUser
from cartrita.accounts.permissions import ScopeMissing
from cartrita.accounts.queries import Caller, caller_again
from cartrita.errors import BadInput, NotFound
from cartrita.eventstore import RecordedEvent, in_database_thread
from cartrita.streaming.registry import CommandCall, register_channel, register_command, register_recheck
from sessions_app import commands, queries
from sessions_app.activity import note_open_socket
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
    return session_id is not None and await in_database_thread(_authorise, user.caller, session_id)


def feed(channel_id: str) -> dict[str, UUID]:
    """Return the part of the log that the channel shows."""
    return {"session_id": UUID(channel_id)}


async def snapshot(channel_id: str) -> dict[str, Any]:
    """Return the session with its newest 200 messages."""
    return await in_database_thread(_snapshot, UUID(channel_id))


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


def _authorise(caller: Caller, session_id: UUID) -> bool:
    now = timezone.now()
    present = caller_again(caller, now=now)
    if present is None or "read" not in present.scopes:
        return False
    try:
        if present.token_id is None:
            # People keep reading their history; their next message opens it again.
            found = queries.visible_session(session_id, present)
        else:
            found = queries.open_session(session_id, present, now=now)
    except NotFound:
        return False
    if found["status"] == "active" and now < found["expires_at"]:
        note_open_socket(session_id, now=now)
    return True


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


register_channel("session", authorise=authorise, feed=feed, snapshot=snapshot, describe=describe, deltas=True)
register_command("post_message", handler=post_message, kind="session")
register_command("cancel_turn", handler=cancel_turn, kind="session")
register_command("set_turn_policy", handler=set_turn_policy, kind="session")
register_recheck(ends_channel)
