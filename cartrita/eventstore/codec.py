"""Between events and rows: sealing, canonical bytes and limits on the way in, opening and upcasting back.

Nothing here touches the database, so that the synchronous and the asyncio path share it.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, ClassVar
from uuid import UUID

import orjson
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from cartrita.errors import BadInput, CartritaError, TooLarge
from cartrita.eventstore import registry
from cartrita.eventstore.canonical import canonical_json
from cartrita.eventstore.fields import SEALED_JSON, SEALED_PREFIX
from cartrita.eventstore.ids import new_id
from cartrita.eventstore.registry import EventTypesWrong, NewerEventVersion, UnknownEventType
from cartrita.eventstore.sealing import DataKeyCipher, SealBroken
from cartrita.eventstore.types import Append, Event, RecordedEvent, Unreadable, recorded_event
from cartrita.telemetry import current_trace_id

MAX_EVENT_BYTES = 64 * 1024
MAX_VERSION = 2**31 - 1

# A stored row as `decode` takes it; the caller puts the position (or null) before it.
COLUMNS = (
    "stream_id",
    "version",
    "event_id",
    "type",
    "schema_version",
    "recorded_at",
    "workspace_id",
    "session_id",
    "causation_id",
    "actor",
    "trace_id",
    "key_id",
    "data",
)
KEY_COLUMN = 1 + COLUMNS.index("key_id")

Row = tuple[Any, ...]
Ciphers = Mapping[UUID, DataKeyCipher | None]
Decode = Callable[[Row, Ciphers], RecordedEvent]


class EventTooLarge(TooLarge):
    """An event is above 64 KiB in its stored form."""

    code: ClassVar[str] = "event_too_large"


class EventUnreadable(CartritaError):
    """A stored event does not fit its class: an upcaster is missing, or the row was altered."""

    code: ClassVar[str] = "event_unreadable"
    status: ClassVar[int] = 500


_TELLS_NO_TEXT = (ValidationError, orjson.JSONDecodeError, EventTypesWrong)

# A row's values as RecordedEvent names them.
_ROW_FIELDS = ("position", *("type_name" if column == "type" else column for column in COLUMNS))

# The values of an event in the order of COLUMNS.
row_of: Callable[[RecordedEvent], Row] = attrgetter(
    *("type_name" if column == "type" else column for column in COLUMNS)
)


def keys_needed(appends: Sequence[Append]) -> set[UUID]:
    """Return the data keys that `encode` must be given for these appends.

    Raises BadInput when an event has sealed fields and its context names no key.
    """
    needed: set[UUID] = set()
    for append in appends:
        key_id = append.context.key_id
        for event in append.events:
            if not registry.shape(type(event)).sealed:
                continue
            if key_id is None:
                raise BadInput(
                    f"{event.type_name} has sealed fields: give Context.key_id (made with create_data_key)",
                    field="key_id",
                )
            needed.add(key_id)
    return needed


def encode(
    append: Append, *, recorded_at: datetime, ciphers: Ciphers, trace_id: str = ""
) -> list[RecordedEvent]:
    """Return the events of an append as they will be read back, without positions.

    `ciphers` holds an open cipher for each of `keys_needed`; `trace_id` is that of contexts without one.

    Raises BadInput (what JSON cannot carry, naming the field; wrong counts), EventTooLarge.
    """
    context = append.context
    event_ids = append.event_ids
    if event_ids is not None and len(event_ids) != len(append.events):
        raise BadInput("event_ids must be as many as events", field="event_ids")
    if append.expected_version < 0:
        raise BadInput(
            "expected_version counts from 0, for a stream that does not exist", field="expected_version"
        )
    if append.expected_version + len(append.events) > MAX_VERSION:
        raise BadInput(f"A stream holds at most {MAX_VERSION} events", field="expected_version")
    if recorded_at.tzinfo is None:
        raise BadInput("recorded_at must be an aware time", field="recorded_at")
    if recorded_at.tzinfo is not UTC:
        recorded_at = recorded_at.astimezone(UTC)
    _refuse_bad_surroundings(context.actor, "actor")
    trace_id = context.trace_id or trace_id or current_trace_id()
    _refuse_bad_surroundings(trace_id, "trace_id")
    encoded = []
    for index, event in enumerate(append.events):
        if not event.type_name:
            raise BadInput(f"{type(event).__name__} has no type_name: it is no event type of its own")
        data, sealed = _encode_event(event, ciphers.get(context.key_id) if context.key_id else None)
        encoded.append(
            recorded_event(
                None,
                append.stream_id,
                append.expected_version + index + 1,
                event_ids[index] if event_ids is not None else new_id(),
                event.type_name,
                event.schema_version,
                recorded_at,
                context.workspace_id,
                context.session_id,
                context.causation_id,
                context.actor,
                trace_id,
                context.key_id,
                event,
                data,
                False,
                sealed,
            )
        )
    return encoded


def decode(row: Row, ciphers: Ciphers) -> RecordedEvent:
    """Return the event of (position, *COLUMNS).

    `ciphers` maps the row's key id to its cipher; None or absence means that the key is destroyed. Raises
    UnknownEventType, NewerEventVersion, EventUnreadable, SealBroken; each names type, stream and position.
    """
    (
        position, stream_id, version, event_id, type_name, schema_version, recorded_at, workspace_id,
        session_id, causation_id, actor, trace_id, key_id, stored,
    ) = row  # fmt: skip
    data = bytes(stored)
    sealed: dict[str, str] = {}
    erased = False
    try:
        if (read := registry.reader(type_name, schema_version)) is not None:
            event = read(data)
        else:
            cls, fields = registry.upcast(type_name, schema_version, orjson.loads(data))
            cipher = ciphers.get(key_id) if key_id else None
            event, sealed = _open_event(registry.shape(cls), fields, cipher)
            erased = bool(sealed) and cipher is None
    except (UnknownEventType, NewerEventVersion, SealBroken) as error:
        raise type(error)(f"{_place(row)}: {error.message}", **{**error.details, **_facts(row)}) from error
    except (EventTypesWrong, ValueError, KeyError, TypeError, AttributeError) as error:
        # An upcaster that meets an altered row may fail in any of these ways, with words of the row.
        why = error if isinstance(error, _TELLS_NO_TEXT) else type(error).__name__
        raise EventUnreadable(
            f"{_place(row)} does not fit its class, an upcaster is missing or the row was altered: {why}",
            **_facts(row),
        ) from error
    return recorded_event(
        position,
        stream_id,
        version,
        event_id,
        event.type_name,
        schema_version,
        recorded_at if recorded_at.tzinfo is UTC else recorded_at.astimezone(UTC),
        workspace_id,
        session_id,
        causation_id,
        actor,
        trace_id,
        key_id,
        event,
        data,
        erased,
        sealed,
    )


def decode_or_stand_in(row: Row, ciphers: Ciphers) -> RecordedEvent:
    """Return what `decode` does, with Unreadable in the place of an event that it cannot read.

    For whoever reads the whole log: one such event must not hold up those of other streams.
    """
    try:
        return decode(row, ciphers)
    except (UnknownEventType, NewerEventVersion, EventUnreadable, SealBroken) as error:
        values = dict(zip(_ROW_FIELDS, row, strict=True))
        values["data"] = bytes(values["data"])
        values["recorded_at"] = values["recorded_at"].astimezone(UTC)
        return RecordedEvent(**values, event=Unreadable(code=error.code, message=error.message))


def _place(row: Row) -> str:
    """Return which event a row is."""
    position, stream_id, version, _, type_name, schema_version = row[:6]
    at = f"at position {position} " if position is not None else ""
    return f"Event {version} of stream {stream_id} {at}({type_name}, version {schema_version})"


def _facts(row: Row) -> dict[str, Any]:
    return {
        "position": row[0],
        "stream_id": str(row[1]),
        "version": row[2],
        "type_name": row[4],
        "schema_version": row[5],
    }


def _encode_event(event: Event, cipher: DataKeyCipher | None) -> tuple[bytes, dict[str, str]]:
    try:
        # What `model_dump` calls; its own arguments cost more than the work.
        fields = event.__pydantic_serializer__.to_python(event, mode="json")
    except PydanticSerializationError as error:
        raise BadInput(f"{event.type_name} cannot be stored: {error}") from error
    sealed: dict[str, str] = {}
    shape = registry.shape(type(event))
    for name in shape.sealed:
        if cipher is None:
            raise BadInput(f"{event.type_name}.{name} is sealed and no open key was given", field="key_id")
        plain = canonical_json(fields[name], field=name).decode()
        if shape.is_text(name):
            sealed[name] = cipher.seal(fields[name])
        else:
            sealed[name] = cipher.seal(plain) + SEALED_JSON
        fields[name] = sealed[name]
    data = canonical_json(fields)
    if len(data) > MAX_EVENT_BYTES:
        largest = max(fields, key=lambda name: len(orjson.dumps(fields[name])))
        raise EventTooLarge(
            f"{event.type_name} takes {len(data)} bytes, at most {MAX_EVENT_BYTES} are stored in an event: "
            f"shorten '{largest}', or put it in a blob and record its hash",
            field=largest,
            bytes=len(data),
            limit=MAX_EVENT_BYTES,
        )
    return data, sealed


def _open_event(
    shape: registry.Shape, fields: dict[str, Any], cipher: DataKeyCipher | None
) -> tuple[Event, dict[str, str]]:
    sealed: dict[str, str] = {}
    for name in shape.sealed:
        token = fields.get(name)
        # A shape from before the field was sealed, or a field that an upcaster added, stands in clear.
        if not isinstance(token, str) or not token.startswith(SEALED_PREFIX):
            continue
        sealed[name] = token
        fields[name] = _opened(token, cipher) if cipher else shape.empty[name]
    if cipher is not None or not sealed:
        return shape.cls.model_validate(fields), sealed
    loose = shape.lenient.model_validate(fields)
    values = {name: getattr(loose, name) for name in shape.cls.model_fields}
    return shape.cls.model_construct(**values), sealed


def _opened(token: str, cipher: DataKeyCipher) -> Any:
    """Return the value of a sealed field: a text stands as it is, anything else as JSON."""
    plain = cipher.unseal(token)
    return orjson.loads(plain) if token.endswith(SEALED_JSON) else plain


def _refuse_bad_surroundings(text: str, field: str) -> None:
    if "\0" in text or not text.isascii():
        canonical_json(text, field=field)
