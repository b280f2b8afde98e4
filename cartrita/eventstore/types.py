"""What an event is: the class of a type, what surrounds it, and what the log returns."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, ClassVar, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from cartrita.eventstore.canonical import rfc3339

T = TypeVar("T")


class SealedMarker:
    """Marks a field that may hold personal text: it is encrypted before it is stored."""


Sealed = Annotated[T, SealedMarker()]


def _make_times_canonical(part: Any) -> None:
    if isinstance(part, dict):
        if part.get("type") == "datetime":
            part["tz_constraint"] = "aware"
            part["serialization"] = core_schema.plain_serializer_function_ser_schema(
                rfc3339, return_schema=core_schema.str_schema(), when_used="json"
            )
            return
        for inner in part.values():
            _make_times_canonical(inner)
    elif isinstance(part, list | tuple):
        for inner in part:
            _make_times_canonical(inner)


class Event(BaseModel):
    """A fact. One frozen subclass per event type, beside its aggregate; the class is the stored schema.

    `type_name` is fixed text `<app>.<ClassName>`, unique in the project; `schema_version` counts stored
    shapes. Fields are JSON-compatible; money is integer micro-units beside a currency; times are aware UTC
    datetimes.
    """

    # Messages about an event must not carry its text into logs.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    type_name: ClassVar[str] = ""
    schema_version: ClassVar[int] = 1

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Refuse times without a zone, and write all in the one canonical form."""
        schema = handler(source)
        _make_times_canonical(schema)
        return schema

    def named_blobs(self) -> Iterable[str]:
        """Return the SHA-256 of each blob that this event names ("": none), of a chain that of its last link.

        The event is stored only where they are, and they are never removed after.
        """
        return ()


class Unreadable(Event):
    """Stands in the log's order for an event that this version cannot read; `message` says which and why.

    Nobody stores it. Readers of the log pass by it; who folds the event's stream, or projects its type, gets
    the error.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What surrounds the events of one append.

    `actor` is `user:<uuid>`, `token:<uuid>`, `agent:<name>` or `system`. `key_id` names the data key that
    seals personal fields; it may be None only for events without such fields. `trace_id` is 32 hex digits,
    the current trace where empty.
    """

    workspace_id: UUID
    session_id: UUID | None = None
    causation_id: UUID | None = None
    actor: str = "system"
    trace_id: str = ""
    key_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Append:
    """Events to add to one stream that is expected to be at `expected_version` (0: it does not exist yet).

    Versions start at 1. `event_ids` are as many as events; without them each event gets a new id and a
    repeated append is a conflict, not a success.
    """

    stream_id: UUID
    expected_version: int
    events: Sequence[Event]
    context: Context
    event_ids: Sequence[UUID] | None = None


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event as it stands in the store.

    `position` is None until the sequencer has ordered it. `sealed` maps each sealed field to the token as
    stored (read models copy that token, never the plain text). `erased` is True when the key is destroyed:
    sealed fields of `event` are then empty values of their types. `data` is the exact stored canonical JSON.
    """

    position: int | None
    stream_id: UUID
    version: int
    event_id: UUID
    type_name: str
    schema_version: int
    recorded_at: datetime
    workspace_id: UUID
    session_id: UUID | None
    causation_id: UUID | None
    actor: str
    trace_id: str
    key_id: UUID | None
    event: Event
    data: bytes
    erased: bool = False
    sealed: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the plain event (sealed fields opened) as JSON-compatible values."""
        return self.event.model_dump(mode="json")


class _Unfrozen:
    """A RecordedEvent while its values are set. A frozen dataclass sets each of them by a call: four times
    as slow, and every event that is written or read is one.
    """

    __slots__ = RecordedEvent.__slots__

    def __init__(  # noqa: PLR0917 - by name would cost as much as is saved
        self,
        position: int | None,
        stream_id: UUID,
        version: int,
        event_id: UUID,
        type_name: str,
        schema_version: int,
        recorded_at: datetime,
        workspace_id: UUID,
        session_id: UUID | None,
        causation_id: UUID | None,
        actor: str,
        trace_id: str,
        key_id: UUID | None,
        event: Event,
        data: bytes,
        erased: bool,
        sealed: Mapping[str, str],
    ) -> None:
        self.position = position
        self.stream_id = stream_id
        self.version = version
        self.event_id = event_id
        self.type_name = type_name
        self.schema_version = schema_version
        self.recorded_at = recorded_at
        self.workspace_id = workspace_id
        self.session_id = session_id
        self.causation_id = causation_id
        self.actor = actor
        self.trace_id = trace_id
        self.key_id = key_id
        self.event = event
        self.data = data
        self.erased = erased
        self.sealed = sealed
        self.__class__ = RecordedEvent  # type: ignore[assignment] # of the same slots


# Makes a RecordedEvent of all its values, in their order.
recorded_event: Callable[..., RecordedEvent] = _Unfrozen  # type: ignore[assignment] # as which it ends
