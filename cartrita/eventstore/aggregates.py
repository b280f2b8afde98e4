"""Which aggregates there are: how the events of a stream fold to its state.

A stream is of the aggregate that its first event begins. Apps register theirs in the modules that
settings.EVENT_AGGREGATES lists; those are imported when somebody asks for an aggregate by a stream.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from importlib import import_module
from inspect import getsource
from typing import Any, ClassVar, Generic, TypeVar

import orjson
from django.conf import settings
from pydantic import BaseModel

from cartrita.errors import CartritaError
from cartrita.eventstore import registry
from cartrita.eventstore.canonical import rfc3339
from cartrita.eventstore.types import Event, RecordedEvent

State = TypeVar("State")


class AggregatesWrong(CartritaError):
    """Two aggregates claim the same streams or the same name."""

    code: ClassVar[str] = "aggregates_wrong"
    status: ClassVar[int] = 500


@dataclass(frozen=True)
class Kept(Generic[State]):
    """How the state of a long stream is kept beside its events.

    `extend` folds further events onto a state, which it leaves as it is. `dump` and `restore` are one
    another's inverse. `modules` say what a state is: when the source of one of them changes, what was kept
    before is not used any more.
    """

    extend: Callable[[State, Sequence[RecordedEvent]], State]
    dump: Callable[[State], bytes]
    restore: Callable[[bytes], State]
    modules: tuple[str, ...]

    @cached_property
    def fold_version(self) -> str:
        """Return what the code of the fold is known by."""
        digest = sha256()
        for name in sorted(self.modules):
            digest.update(getsource(import_module(name)).encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Aggregate(Generic[State]):
    """A kind of stream. `fold` returns the state that a stream's events, in order, make; also of none."""

    name: str
    begins_with: tuple[type[Event], ...]
    fold: Callable[[Sequence[RecordedEvent]], State]
    kept: Kept[State] | None = None


_by_name: dict[str, Aggregate[Any]] = {}


def aggregate(
    name: str,
    *begins_with: type[Event],
    fold: Callable[[Sequence[RecordedEvent]], State],
    kept: Kept[State] | None = None,
) -> Aggregate[State]:
    """Register an aggregate, whose streams begin with an event of one of these classes, and return it.

    Raises AggregatesWrong where another one has its name or its first events.
    """
    made = Aggregate(name, begins_with, fold, kept)
    for other in _by_name.values():
        shared = set(other.begins_with) & set(begins_with)
        if other.name == name or shared:
            raise AggregatesWrong(
                f"The aggregates {other.name} and {name} are not told apart: give each a name, and first "
                "events, of its own"
            )
    if kept is not None:
        # Now, while the source on disk is what runs: an upgrade may replace it under a running process.
        assert kept.fold_version  # noqa: S101 # it is never empty
    _by_name[name] = made
    return made


def aggregate_of(first: RecordedEvent) -> Aggregate[Any] | None:
    """Return the aggregate of the stream that begins with this event, None where no app registered one."""
    registry.load_modules(settings.EVENT_AGGREGATES)
    for found in _by_name.values():
        if isinstance(first.event, found.begins_with):
            return found
    return None


def as_json(state: Any) -> bytes:
    """Return any state (dataclasses, events, mappings, sets, ids, times) as JSON for people to look at."""
    return orjson.dumps(_plain(state))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime) and value.tzinfo is not None:
        return rfc3339(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
