"""The frames of the protocol `cartrita.v1`, without any input or output: see docs/protocol.md.

A frame is one JSON object in one WebSocket text message; `t` names its type. Server frames with an `f` count
against the client's window and are acknowledged; all others are not.
"""

import enum
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cartrita.errors import BadInput, CartritaError, TooLarge
from cartrita.eventstore.types import RecordedEvent

SUBPROTOCOL: Final = "cartrita.v1"
TICKET_PREFIX: Final = "ticket."
VERSION: Final = 1

FRAME_BYTES: Final = 64 * 1024
WINDOW_FRAMES: Final = 32
WINDOW_BYTES: Final = 256 * 1024
STALL_SECONDS: Final = 30.0
HEARTBEAT_SECONDS: Final = 15.0
# Three heartbeats without a sign of life.
SILENCE_SECONDS: Final = 45.0
COMMANDS_PER_SECOND: Final = 10
COMMANDS_BURST: Final = 20
REPLAY_EVENTS: Final = 500
CHANNELS_PER_SOCKET: Final = 64
SOCKETS_PER_USER: Final = 10
REAUTHORISE_SECONDS: Final = 60.0
# Checks that fall due within so long are made together, all of them in time.
REAUTHORISE_TOGETHER_SECONDS: Final = 2.0
# Text is sent in pieces of at most this size, so that no delta fills the window alone.
DELTA_BYTES: Final = 16 * 1024

# The largest integer that every JSON reader keeps exactly.
_LARGEST = 2**53 - 1
_Count = Annotated[int, Field(strict=True, ge=0, le=_LARGEST)]
_Attempt = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
_Id = Annotated[str, Field(strict=True, min_length=1, max_length=64)]
_Channel = Annotated[str, Field(strict=True, min_length=1, max_length=200)]


class Close(enum.IntEnum):
    """Why the server ends a connection; docs/protocol.md says what a client does about each."""

    MALFORMED = 4400
    NOT_SIGNED_IN = 4401
    NOT_ALLOWED = 4403
    NOT_FOUND = 4404
    STALLED = 4408
    GONE = 4410
    TOO_LARGE = 4413
    UNKNOWN_PROTOCOL = 4426
    TOO_MANY = 4429
    FAILED = 4500
    RESTARTING = 4503


class MalformedFrame(BadInput):
    """What arrived is no frame of this protocol; `details["id"]` is its id where it could be read."""

    code = "malformed_frame"


class FrameTooLarge(TooLarge):
    """A frame above 64 KiB."""

    code = "frame_too_large"


class _Frame(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Hello(_Frame):
    """The client introduces itself; optional."""

    t: Literal["hello"]
    v: Annotated[int, Field(strict=True, ge=1)]
    client: Annotated[str, Field(strict=True, max_length=200)] = ""


class Sub(_Frame):
    """Follow a channel after position `cur` (None: from a snapshot); `have` is the text held, by message."""

    t: Literal["sub"]
    id: _Id
    ch: _Channel
    cur: _Count | None = None
    have: Annotated[dict[UUID, tuple[_Attempt, _Count]], Field(max_length=64)] = Field(default_factory=dict)


class Unsub(_Frame):
    """Follow a channel no longer."""

    t: Literal["unsub"]
    id: _Id
    ch: _Channel


class Ack(_Frame):
    """All frames up to number `f` have been taken in."""

    t: Literal["ack"]
    f: _Count


class Cmd(_Frame):
    """Do something; `cid` makes it safe to repeat, `exp_ver` is the stream version that the client saw."""

    t: Literal["cmd"]
    id: _Id
    cid: UUID
    name: Annotated[str, Field(strict=True, min_length=1, max_length=100)]
    ch: _Channel | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    exp_ver: _Count | None = None


class Fill(_Frame):
    """Send a message's text again from byte `from`."""

    t: Literal["fill"]
    ch: _Channel
    mid: UUID
    start: Annotated[_Count, Field(alias="from")]


class Pong(_Frame):
    """A sign of life."""

    t: Literal["pong"]


ClientFrame = Hello | Sub | Unsub | Ack | Cmd | Fill | Pong
_client_frame: TypeAdapter[ClientFrame] = TypeAdapter(Annotated[ClientFrame, Field(discriminator="t")])


def parse(text: str | None) -> ClientFrame:
    """Return the client frame in a message's text (None: the message was binary).

    Raises MalformedFrame, which names the field, and FrameTooLarge above 64 KiB.
    """
    if text is None:
        raise MalformedFrame("Frames are text messages; this one was binary.")
    if len(text) > FRAME_BYTES or len(text.encode("utf-8", "surrogatepass")) > FRAME_BYTES:
        raise FrameTooLarge(f"A frame holds at most {FRAME_BYTES} bytes; send large content over REST.")
    try:
        frame = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
        raise MalformedFrame(f"This is no JSON: {error}. Send one JSON object a message.") from error
    if not isinstance(frame, dict):
        raise MalformedFrame("A frame is a JSON object with a field 't' that names its type.", field="t")
    # Raw NULs are no JSON; escaped ones are looked for only where the escape occurs at all.
    if "\\u0000" in text and (path := _path_to_nul(frame, "")) is not None:
        raise MalformedFrame("Text holds a NUL character; remove it.", field=path, id=_readable_id(frame))
    try:
        return _client_frame.validate_python(frame)
    except ValidationError as error:
        raise _malformed(frame, error) from error


def _malformed(frame: dict[str, Any], error: ValidationError) -> MalformedFrame:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        return MalformedFrame(
            "The field 't' names the frame's type: hello, sub, unsub, ack, cmd, fill or pong.",
            field="t",
            id=_readable_id(frame),
        )
    field = ".".join(str(part) for part in first["loc"][1:])
    return MalformedFrame(
        f"The field {field!r} of a frame {frame['t']!r} is wrong: {first['msg']}.",
        field=field,
        id=_readable_id(frame),
    )


def _readable_id(frame: dict[str, Any]) -> str | None:
    value = frame.get("id")
    return value if isinstance(value, str) and 0 < len(value) <= 64 and "\x00" not in value else None


def _path_to_nul(value: Any, path: str) -> str | None:
    """Return the path of the first text with a NUL (a key counts for its value), or None."""
    if isinstance(value, str):
        return path if "\x00" in value else None
    if isinstance(value, dict):
        for key, inner in value.items():
            below = f"{path}.{key}" if path else key
            if "\x00" in key:
                return below.replace("\x00", "\\u0000")
            if (found := _path_to_nul(inner, below)) is not None:
                return found
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            if (found := _path_to_nul(inner, f"{path}.{index}")) is not None:
                return found
    return None


def encode(frame: Mapping[str, Any]) -> str:
    """Return a frame as the text of one WebSocket message."""
    return orjson.dumps(frame).decode()


def welcome(*, connection: str, session_id: UUID | None, epoch: str, at: datetime) -> dict[str, Any]:
    """Return the first frame of every accepted connection; positions hold within `epoch` alone."""
    return {
        "t": "welcome",
        "v": VERSION,
        "conn": connection,
        "sessionId": None if session_id is None else str(session_id),
        "epoch": epoch,
        "status": "connected",
        "timestamp": at.isoformat(),
        "limits": {
            "frame_bytes": FRAME_BYTES,
            "window_frames": WINDOW_FRAMES,
            "window_bytes": WINDOW_BYTES,
            "heartbeat_ms": int(HEARTBEAT_SECONDS * 1000),
            "commands_per_second": COMMANDS_PER_SECOND,
            "commands_burst": COMMANDS_BURST,
            "channels": CHANNELS_PER_SOCKET,
        },
    }


def subbed(
    *, frame_id: str, channel: str, head: int, snapshot: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the answer to a sub: every event after the cursor follows, or a snapshot as of `head`."""
    frame: dict[str, Any] = {
        "t": "subbed",
        "id": frame_id,
        "ch": channel,
        "recovered": snapshot is None,
        "head": head,
    }
    if snapshot is not None:
        frame["snapshot"] = snapshot
    return frame


def unsubbed(*, channel: str, error: CartritaError) -> dict[str, Any]:
    """Return the news that the server ended a subscription."""
    return {"t": "unsubbed", "ch": channel, "error": error_body(error)}


def event_tail(*, channel: str, recorded: RecordedEvent, shown: Mapping[str, Any]) -> str:
    """Return what an event's frame is for every receiver: all but `t`, `f` and `prev`, as JSON text.

    The session is the correlation; the stream and its version serve as a command's `exp_ver`.
    """
    return encode(
        {
            "ch": channel,
            "pos": recorded.position,
            "eid": str(recorded.event_id),
            "type": recorded.type_name,
            "ts": recorded.recorded_at.isoformat(),
            "stream": str(recorded.stream_id),
            "ver": recorded.version,
            "actor": recorded.actor,
            "corr": None if recorded.session_id is None else str(recorded.session_id),
            "caus": None if recorded.causation_id is None else str(recorded.causation_id),
            "trace": recorded.trace_id,
            "d": shown,
        }
    )[1:]


def event(*, number: int, previous: int, tail: str) -> str:
    """Return an event's frame for one receiver, to which position `previous` was sent before."""
    return f'{{"t":"ev","f":{number},"prev":{previous},{tail}'


def delta(
    *, number: int, channel: str, message_id: UUID, attempt: int, start: int, end: int, text: str
) -> str:
    """Return a piece of a message's text, from byte `start` to byte `end` of its UTF-8 form."""
    return encode(
        {
            "t": "delta",
            "f": number,
            "ch": channel,
            "mid": str(message_id),
            "att": attempt,
            "off": start,
            "end": end,
            "text": text,
        }
    )


def answer(frame_id: str | None, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a command's result."""
    return {"t": "res", "id": frame_id, "ok": True, "d": result}


def refusal(frame_id: str | None, error: CartritaError, **further: Any) -> dict[str, Any]:
    """Return why a frame was not carried out."""
    return {"t": "res", "id": frame_id, "ok": False, "error": {**error_body(error), **further}}


def error_body(error: CartritaError) -> dict[str, Any]:
    """Return a failure with its stable code, as in HTTP problem answers."""
    body: dict[str, Any] = {"code": error.code, "message": error.message, "status": error.status}
    if error.field is not None:
        body["field"] = error.field
    details = {name: value for name, value in error.details.items() if name != "id"}
    return {**body, "details": details} if details else body


def heartbeat(*, heads: Mapping[str, int], at: datetime) -> dict[str, Any]:
    """Return a heartbeat: the last position that was sent for each channel, so that a loss shows."""
    return {"t": "hb", "heads": dict(heads), "ts": at.isoformat()}


def bye(close: Close, reason: str, *, retry_after: float | None = None) -> dict[str, Any]:
    """Return the last frame before the server closes; `retry_after` in seconds asks to come back then."""
    frame: dict[str, Any] = {"t": "bye", "code": int(close), "reason": reason}
    if retry_after is not None:
        frame["retry_ms"] = int(retry_after * 1000)
    return frame


def next_check(now: float) -> float:
    """Return when authority that is checked now is checked again: within 60 s, at a time of many others."""
    return (now + REAUTHORISE_SECONDS) // REAUTHORISE_TOGETHER_SECONDS * REAUTHORISE_TOGETHER_SECONDS


def piece(text: bytes, *, limit: int = DELTA_BYTES) -> bytes:
    """Return the longest beginning of UTF-8 `text` of at most `limit` bytes that ends with a character."""
    if len(text) <= limit:
        return text
    end = limit
    while end and text[end] & 0b1100_0000 == 0b1000_0000:
        end -= 1
    return text[:end]
