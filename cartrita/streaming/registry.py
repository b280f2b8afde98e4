"""What apps register: channel kinds, socket commands, and how a socket's user is known.

Each app's `consumers.py` is imported when Django is ready and calls these functions at module level:

    register_channel("session", authorise=..., feed=..., snapshot=..., describe=..., deltas=True)
    register_command("post_message", handler=..., kind="session")
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from cartrita.errors import BadInput, Unavailable
from cartrita.eventstore.types import RecordedEvent


class Person(Protocol):
    """The user of a socket, as the registered authentication returns it (Django's user model fits)."""

    @property
    def pk(self) -> Any:
        """Return the id by which sockets of one user are counted."""


Scope = dict[str, Any]
Authorise = Callable[[Any, str], Awaitable[bool]]
Feed = Callable[[str], "Mapping[str, UUID] | Awaitable[Mapping[str, UUID]]"]
Snapshot = Callable[[str], Awaitable[dict[str, Any]]]
Describe = Callable[[RecordedEvent], "dict[str, Any] | None"]
Authenticate = Callable[[Scope, "str | None"], Awaitable[Person]]
StillValid = Callable[[Person, Scope], Awaitable[bool]]
Concerns = Callable[[RecordedEvent], "UUID | None"]


class UnknownChannel(BadInput):
    """No app registered that kind of channel."""

    code = "unknown_channel"


class UnknownCommand(BadInput):
    """No app registered that command, or not for that kind of channel."""

    code = "unknown_command"


class NobodyAuthenticates(Unavailable):
    """No app registered how a socket's user is known."""

    code = "no_authentication"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandCall:
    """One command as a client sent it.

    `cid` makes it idempotent: a handler derives its event ids from it, so that a repeated call meets its own
    first trace. `expected_version` is a stream's version, or None when the client does not care.
    """

    user: Any
    channel_id: str | None
    cid: UUID
    args: dict[str, Any]
    expected_version: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelKind:
    """How one kind of channel is authorised, fed, summed up and shown."""

    kind: str
    authorise: Authorise
    feed: Feed
    snapshot: Snapshot
    describe: Describe
    deltas: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketCommand:
    """One named command and the kind of channel that it needs (None: none)."""

    name: str
    handler: Callable[[CommandCall], Awaitable[dict[str, Any]]]
    kind: str | None


@dataclass(frozen=True, slots=True)
class Authentication:
    """Who a socket belongs to, and whether that still holds."""

    authenticate: Authenticate
    still_valid: StillValid


_kinds: dict[str, ChannelKind] = {}
_commands: dict[str, SocketCommand] = {}
_authentication: list[Authentication] = []
_rechecks: list[Concerns] = []


def register_channel(
    kind: str,
    *,
    authorise: Authorise,
    feed: Feed,
    snapshot: Snapshot,
    describe: Describe,
    deltas: bool = False,
) -> None:
    """Register a kind of channel, so that clients may subscribe to `<kind>:<channel_id>`.

    `authorise(user, channel_id)` answers whether the user may read the channel (asked at each sub and every
    60 s; an unknown or malformed id is False). `feed(channel_id)` names the part of the log that the
    channel shows, `{"session_id": ...}` or `{"workspace_id": ...}`, directly or as an awaitable.
    `snapshot(channel_id)` sums the channel up for a client that is too far behind to be sent every event.
    `describe(recorded)` is pure and quick: what the channel shows of an event (JSON-compatible), or None.
    An event that completes a streamed message carries `"completed": completed(message_id, text)` in it.
    `deltas` sends the session's text as it is written.
    """
    if kind in _kinds:
        raise ValueError(f"channel kind {kind!r} is registered twice")
    _kinds[kind] = ChannelKind(
        kind=kind, authorise=authorise, feed=feed, snapshot=snapshot, describe=describe, deltas=deltas
    )


def register_command(
    name: str,
    *,
    handler: Callable[[CommandCall], Awaitable[dict[str, Any]]],
    kind: str | None = None,
) -> None:
    """Register a command that clients may send over the socket.

    With `kind`, the client names a channel of that kind and must be authorised for it; without, it names
    none. The handler's `CartritaError` becomes the answer's error; its result is the answer's data.
    """
    if name in _commands:
        raise ValueError(f"socket command {name!r} is registered twice")
    _commands[name] = SocketCommand(name=name, handler=handler, kind=kind)


def register_authentication(authenticate: Authenticate, *, still_valid: StillValid) -> None:
    """Register how a socket's user is known; one app does it, once.

    `authenticate(scope, ticket)` returns the user or raises `NotSignedIn` / `NotAllowed`. `ticket` is the
    value of the subprotocol `ticket.<value>` or None; `scope["cookies"]` holds the parsed cookies, and
    their Origin was checked before. The function may leave in `scope` what `still_valid(user, scope)`
    needs, which is asked every 60 s and at once when an event registered with `register_recheck` names the
    user.
    """
    if _authentication:
        raise ValueError("the authentication of sockets is registered twice")
    _authentication.append(Authentication(authenticate, still_valid))


def register_recheck(concerns: Concerns) -> None:
    """Register which events end or narrow somebody's access.

    `concerns(recorded)` is pure and returns the id of the user whose sockets are checked again at once, or
    None.
    """
    _rechecks.append(concerns)


def completed(message_id: UUID, text: str) -> dict[str, Any]:
    """Return what heals a client's copy of a message: its text, length in UTF-8 bytes, SHA-256."""
    encoded = text.encode()
    return {
        "mid": str(message_id),
        "bytes": len(encoded),
        "sha256": hashlib.sha256(encoded).hexdigest(),
        "text": text,
    }


def channel_kind(channel: str) -> tuple[ChannelKind, str]:
    """Return the kind and the id of `<kind>:<id>`. Raises UnknownChannel."""
    kind, _, channel_id = channel.partition(":")
    found = _kinds.get(kind)
    if found is None:
        known = ", ".join(sorted(_kinds)) or "none"
        raise UnknownChannel(f"There is no channel kind {kind[:64]!r}; known kinds: {known}.", field="ch")
    return found, channel_id


def socket_command(name: str) -> SocketCommand:
    """Return the command of that name. Raises UnknownCommand."""
    found = _commands.get(name)
    if found is None:
        known = ", ".join(sorted(_commands)) or "none"
        raise UnknownCommand(f"There is no command {name[:64]!r}; known commands: {known}.", field="name")
    return found


def is_command(name: str) -> bool:
    """Tell whether a command of that name is registered."""
    return name in _commands


def authentication() -> Authentication:
    """Return the registered authentication. Raises NobodyAuthenticates."""
    if not _authentication:
        raise NobodyAuthenticates("No app registered how the user of a socket is known.")
    return _authentication[0]


def users_to_recheck(recorded: RecordedEvent) -> set[UUID]:
    """Return the ids of the users whose sockets an event asks to check again."""
    return {user for concerns in _rechecks if (user := concerns(recorded)) is not None}


@dataclass(frozen=True, slots=True)
class Registrations:
    """A copy of all registrations, for tests that register their own."""

    kinds: dict[str, ChannelKind]
    commands: dict[str, SocketCommand]
    authentication: tuple[Authentication, ...]
    rechecks: tuple[Concerns, ...]


def registrations() -> Registrations:
    """Return a copy of all registrations."""
    return Registrations(dict(_kinds), dict(_commands), tuple(_authentication), tuple(_rechecks))


def replace_registrations(new: Registrations) -> None:
    """Put other registrations in place of all present ones."""
    _kinds.clear()
    _kinds.update(new.kinds)
    _commands.clear()
    _commands.update(new.commands)
    _authentication[:] = new.authentication
    _rechecks[:] = new.rechecks
