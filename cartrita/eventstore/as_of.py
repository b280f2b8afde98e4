"""Looking back: a stream as it was at a version, a position of the log or a time, and its state then."""

from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile
from typing import Any, ClassVar, LiteralString
from uuid import UUID

from cartrita.errors import BadInput, NotFound
from cartrita.eventstore import codec, registry, sealing
from cartrita.eventstore.aggregates import aggregate_of
from cartrita.eventstore.catch_up import log_head
from cartrita.eventstore.codec import KEY_COLUMN
from cartrita.eventstore.rows import COLUMNS
from cartrita.eventstore.store import execute
from cartrita.eventstore.types import RecordedEvent

# What is shown in the place of a text.
SEALED_SHOWN = "<sealed>"
ERASED_SHOWN = "<erased>"


class NothingThen(NotFound):
    """The stream does not exist, or did not exist yet."""

    code: ClassVar[str] = "nothing_then"


@dataclass(frozen=True, slots=True)
class StateThen:
    """A stream's state after its event `last`; `events` are all up to it.

    `aggregate` is "" and `state` None where no app folds such streams.
    """

    aggregate: str
    state: Any
    events: tuple[RecordedEvent, ...]

    @property
    def last(self) -> RecordedEvent:
        """Return the event after which the state was so."""
        return self.events[-1]


def state_as_of(
    stream_id: UUID,
    *,
    version: int | None = None,
    position: int | None = None,
    at: datetime | None = None,
    unseal: bool = False,
) -> StateThen:
    """Return the state of a stream as of one of these; as `load_as_of`. Raises NothingThen, BadInput."""
    events = load_as_of(stream_id, version=version, position=position, at=at, unseal=unseal)
    if not events:
        raise _nothing(stream_id)
    found = aggregate_of(events[0])
    state = found.fold(events) if found is not None else None
    return StateThen(found.name if found is not None else "", state, tuple(events))


def load_as_of(
    stream_id: UUID,
    *,
    version: int | None = None,
    position: int | None = None,
    at: datetime | None = None,
    unseal: bool = False,
) -> list[RecordedEvent]:
    """Return a stream's events as of a version, a position of the log, or a time (one of them; none: now).

    As of a position: what the log had up to it. As of a time: what was recorded before anything that was
    recorded later. Text is shown as `<sealed>` or `<erased>`, and as it is with `unseal` where it is not
    erased. Raises BadInput for what has not come yet, and what decoding raises.
    """
    if (version is not None) + (position is not None) + (at is not None) > 1:
        raise BadInput("Give one of version, position and time.", field="version")
    rows = execute(_LOAD, [stream_id]).fetchall()
    if version is not None:
        if not 0 < version <= len(rows):
            raise BadInput(f"The stream {stream_id} has the versions 1 to {len(rows)}.", field="version")
        rows = rows[:version]
    elif position is not None:
        check_position(position)
        rows = [row for row in rows if row[0] is not None and row[0] <= position]
    elif at is not None:
        if at.tzinfo is None:
            raise BadInput("The time needs a zone, such as 2026-01-31T09:00:00Z.", field="at")
        rows = list(takewhile(lambda row: row[_RECORDED_AT] <= at, rows))
    ciphers = sealing.ciphers({row[KEY_COLUMN] for row in rows if row[KEY_COLUMN] is not None})
    return [veiled(codec.decode(row, ciphers), unseal=unseal) for row in rows]


def check_position(position: int) -> None:
    """Raise BadInput for a position that the log has not come to."""
    head = log_head()
    if not 0 <= position <= head:
        raise BadInput(f"The log has the positions 1 to {head}.", field="position")


def veiled(recorded: RecordedEvent, *, unseal: bool) -> RecordedEvent:
    """Return an event with words in the place of the sealed texts that are not to be shown, or are erased."""
    if not recorded.sealed or (unseal and not recorded.erased):
        return recorded
    shape = registry.shape(type(recorded.event))
    word = ERASED_SHOWN if recorded.erased else SEALED_SHOWN
    shown = {name: word if shape.is_text(name) else shape.empty[name] for name in recorded.sealed}
    return replace(recorded, event=recorded.event.model_copy(update=shown))


def position_at(at: datetime) -> int:
    """Return the last position that the log had at a time, 0 before its first.

    It is that of the last tick until then: found in steps that halve what is left, since ticks are numbered
    without gaps and there are many.
    """
    if at.tzinfo is None:
        raise BadInput("The time needs a zone, such as 2026-01-31T09:00:00Z.", field="at")
    bounds = execute("select coalesce(min(number), 1), coalesce(max(number), 0) from tick").fetchone()
    low, high = bounds or (1, 0)
    position = 0
    while low <= high:
        middle = (low + high) // 2
        tick = execute(_TICK, [middle, high]).fetchone()
        if tick is None or tick[1] > at:
            high = middle - 1
        else:
            low, position = tick[0] + 1, tick[2]
    return int(position)


def _nothing(stream_id: UUID) -> NothingThen:
    row = execute(_FIRST, [stream_id]).fetchone()
    if row is None:
        return NothingThen(f"There is no stream {stream_id}.", field="stream")
    position, recorded_at = row
    begins = f"at position {position}" if position is not None else "after the head of the log"
    return NothingThen(
        f"The stream {stream_id} did not exist then: it begins {begins}, recorded {recorded_at.isoformat()}.",
        field="stream",
    )


_RECORDED_AT = 1 + codec.COLUMNS.index("recorded_at")
_LOAD: LiteralString = (
    "select log.position, " + COLUMNS + " from event left join log using (stream_id, version) "  # noqa: S608
    "where stream_id = %b order by version"
)
_FIRST: LiteralString = (
    "select log.position, event.recorded_at from event left join log using (stream_id, version) "
    "where stream_id = %b and version = 1"
)
_TICK: LiteralString = (
    "select number, ticked_at, size from tick where number >= %b and number <= %b order by number limit 1"
)
