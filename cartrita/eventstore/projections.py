"""Read models from events: inline (in the append's transaction) and following (behind the log)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django.db import models

from cartrita.errors import CartritaError
from cartrita.eventstore.together import Command
from cartrita.eventstore.types import Event, RecordedEvent

InlineFunction = Callable[[RecordedEvent], None]
FollowingFunction = Callable[[Sequence[RecordedEvent]], None]
# Statements that write what a function does, or None where it has to.
CommandsFunction = Callable[[Sequence[RecordedEvent]], Sequence[Command] | None]

# Writers hold it shared while they run inline projections; the swap of a rebuild takes it alone.
INLINE_LOCK = 0x63617274_696E6C69


class ProjectionsWrong(CartritaError):
    """Projections contradict one another; found at start-up."""

    code: ClassVar[str] = "projections_wrong"
    status: ClassVar[int] = 500


@dataclass(frozen=True, slots=True)
class Inline:
    """A function that writes rows of one stream in the transaction of the append.

    `batched`: it takes the events of an append all at once.
    """

    name: str
    event_classes: tuple[type[Event], ...]
    tables: tuple[type[models.Model], ...]
    function: InlineFunction | FollowingFunction
    batched: bool = False
    commands: CommandsFunction | None = None

    def run(self, recorded: Sequence[RecordedEvent]) -> None:
        """Run the function on events of its classes, in order."""
        function: Any = self.function
        if self.batched:
            function(recorded)
        else:
            for event in recorded:
                function(event)


@dataclass(frozen=True, slots=True)
class Following:
    """A function that writes rows across streams, in log order, behind the log."""

    name: str
    event_classes: tuple[type[Event], ...]
    tables: tuple[type[models.Model], ...]
    function: FollowingFunction


_inline: dict[str, Inline] = {}
_following: dict[str, Following] = {}
_inline_by_class: dict[type[Event], tuple[Inline, ...]] = {}


def inline(
    *event_classes: type[Event], tables: Sequence[type[models.Model]]
) -> Callable[[InlineFunction], InlineFunction]:
    """Run the decorated function for each event of these classes, in the append's transaction.

    Its rows (all in `tables`) are a function of one stream's events alone: ids and times come from the event.
    """

    def register(function: InlineFunction) -> InlineFunction:
        _register_inline(function, event_classes, tables, batched=False)
        return function

    return register


def inline_batched(
    *event_classes: type[Event],
    tables: Sequence[type[models.Model]],
    commands: CommandsFunction | None = None,
) -> Callable[[FollowingFunction], FollowingFunction]:
    """As `inline`, for a function that takes all such events of an append at once, in order.

    It runs after those that take them one by one. Which events come together must not matter. `commands`
    returns statements that write the same rows, which a step sends together with its events.
    """

    def register(function: FollowingFunction) -> FollowingFunction:
        _register_inline(function, event_classes, tables, batched=True, commands=commands)
        return function

    return register


def following(
    name: str, *event_classes: type[Event], tables: Sequence[type[models.Model]]
) -> Callable[[FollowingFunction], FollowingFunction]:
    """Run the decorated function on batches of these events in log order, with the checkpoint `name`.

    Batch and checkpoint are one transaction, so each event is seen once. The rows (all in `tables`) are a
    function of the events alone; batch boundaries must not matter.
    """

    def register(function: FollowingFunction) -> FollowingFunction:
        known = _following.get(name)
        if known is not None and known.function.__qualname__ != function.__qualname__:
            raise ProjectionsWrong(f"Two following projections are named {name!r}")
        projection = Following(name, event_classes, tuple(tables), function)
        _refuse_shared(projection)
        _following[name] = projection
        return function

    return register


def inline_of(cls: type[Event]) -> tuple[Inline, ...]:
    """Return the inline projections of an event class, in the order of their registration."""
    return _inline_by_class.get(cls, ())


def all_inline() -> list[Inline]:
    """Return every inline projection, in the order of their registration."""
    return list(_inline.values())


def all_following() -> list[Following]:
    """Return every following projection, in the order of their registration."""
    return list(_following.values())


def run_inline(recorded: Sequence[RecordedEvent]) -> None:
    """Run the inline projections of these events, in order."""
    for projection, batch in _batches(recorded):
        projection.run(batch)


def commands_of(
    recorded: Sequence[RecordedEvent],
) -> tuple[list[Command], list[tuple[Inline, list[RecordedEvent]]]]:
    """Return the statements of inline projections that have some, and what is left to run after them."""
    commands: list[Command] = []
    others = []
    for projection, batch in _batches(recorded):
        written = projection.commands(batch) if projection.commands is not None else None
        if written is None:
            others.append((projection, batch))
        else:
            commands += written
    return commands, others


def _batches(recorded: Sequence[RecordedEvent]) -> list[tuple[Inline, list[RecordedEvent]]]:
    """Return inline projections with the events that each takes, in the order in which they run."""
    single = []
    batches: dict[str, list[RecordedEvent]] = {}
    for event in recorded:
        for projection in inline_of(type(event.event)):
            if projection.batched:
                batches.setdefault(projection.name, []).append(event)
            else:
                single.append((projection, [event]))
    return [*single, *((_inline[name], batch) for name, batch in batches.items())]


def _register_inline(
    function: InlineFunction | FollowingFunction,
    event_classes: tuple[type[Event], ...],
    tables: Sequence[type[models.Model]],
    *,
    batched: bool,
    commands: CommandsFunction | None = None,
) -> None:
    name = f"{function.__module__.removesuffix('.projections')}.{function.__name__}"
    projection = Inline(name, event_classes, tuple(tables), function, batched, commands)
    _refuse_shared(projection)
    _inline[name] = projection
    for cls in event_classes:
        others = tuple(known for known in _inline_by_class.get(cls, ()) if known.name != name)
        _inline_by_class[cls] = (*others, projection)


def _refuse_shared(projection: Inline | Following) -> None:
    """Refuse a table of two following, or of inline and following projections: no rebuild could order it."""
    others: list[Any] = [*_following.values()]
    if isinstance(projection, Following):
        others = [*(known for known in others if known.name != projection.name), *_inline.values()]
    for other in others:
        shared = set(projection.tables) & set(other.tables)
        if shared:
            names = ", ".join(sorted(model.__name__ for model in shared))
            raise ProjectionsWrong(
                f"{projection.name} and {other.name} both write {names}: give each a table of its own"
            )
