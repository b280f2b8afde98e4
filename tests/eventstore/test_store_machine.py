"""The store beside a model of a few lines, under whatever sequence of commands hypothesis can think of."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cartrita.eventstore import (
    Append,
    Context,
    Erased,
    Event,
    EventIdReused,
    Sequencer,
    StreamMoved,
    append,
    erase_key,
    load,
    new_id,
    read_log,
    rebuild,
    run_following,
)
from tests.databases import Database
from tests.eventstore.notes import (
    WORKSPACE,
    Note,
    NoteStarred,
    NoteWritten,
    Tally,
    a_key,
    note_projections,
)

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
STREAMS = st.integers(0, 2)
KEYS = st.integers(0, 1)
EVENTS = st.lists(
    st.builds(NoteWritten, text=TEXTS) | st.builds(NoteStarred, stars=st.integers(0, 999)),
    min_size=1,
    max_size=3,
)


@dataclass(frozen=True)
class Standing:
    event_id: UUID
    event: Event
    key: int


class StoreMachine(RuleBasedStateMachine):
    """Streams of notes, sealed under two keys of which each may be erased."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.streams = [new_id() for _ in range(3)]
        self.keys = [a_key(), a_key()]
        self.erased: set[int] = set()
        self.model: dict[int, list[Standing]] = {number: [] for number in range(3)}
        self.done: list[tuple[tuple[int, int, int, list[Event], list[UUID]], ...]] = []

    def make(self, stream: int, after: int, key: int, events: list[Event], ids: list[UUID]) -> Append:
        context = Context(workspace_id=WORKSPACE, key_id=self.keys[key])
        return Append(self.streams[stream], after, events, context, event_ids=ids)

    def stand(self, stream: int, key: int, events: list[Event], ids: list[UUID]) -> None:
        self.model[stream] += [
            Standing(event_id, event, key) for event_id, event in zip(ids, events, strict=True)
        ]

    def can_seal(self, key: int, events: list[Event]) -> bool:
        return key not in self.erased or not any(isinstance(event, NoteWritten) for event in events)

    @rule(parts=st.dictionaries(STREAMS, EVENTS, min_size=1, max_size=3), key=KEYS, joined=st.booleans())
    def append_at_the_head(self, parts: dict[int, list[Event]], key: int, joined: bool) -> None:
        calls = tuple(
            (stream, len(self.model[stream]), key, events, [new_id() for _ in events])
            for stream, events in parts.items()
        )
        write: Callable[[], Any] = lambda: append(*(self.make(*call) for call in calls))  # noqa: E731
        if not all(self.can_seal(key, events) for events in parts.values()):
            with pytest.raises(Erased):
                write()
            return
        if joined:
            with transaction.atomic():
                write()
        else:
            write()
        for stream, _, _, events, ids in calls:
            self.stand(stream, key, events, ids)
        self.done.append(calls)

    @rule(stream=STREAMS, events=EVENTS, key=KEYS)
    def append_and_roll_back(self, stream: int, events: list[Event], key: int) -> None:
        if self.can_seal(key, events):
            with transaction.atomic():
                append(self.make(stream, len(self.model[stream]), key, events, [new_id() for _ in events]))
                transaction.set_rollback(True)

    @rule(stream=STREAMS, events=EVENTS, off=st.integers(-3, 3).filter(bool), other=STREAMS)
    def append_elsewhere(self, stream: int, events: list[Event], off: int, other: int) -> None:
        expected = len(self.model[stream]) + off
        live = next((key for key in range(2) if key not in self.erased), None)
        if expected < 0 or live is None:
            return
        wrong = self.make(stream, expected, live, events, [new_id() for _ in events])
        appends = [wrong]
        if other != stream:
            appends.append(self.make(other, len(self.model[other]), live, events, [new_id() for _ in events]))
        with pytest.raises(StreamMoved) as caught:
            append(*appends)
        assert caught.value.stream_id == self.streams[stream]
        assert caught.value.actual_version == len(self.model[stream])

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def append_again(self, data: st.DataObject) -> None:
        calls = data.draw(st.sampled_from(self.done))
        if all(self.can_seal(key, events) for _, _, key, events, _ in calls):
            repeated = append(*(self.make(*call) for call in calls))
            assert [row.event_id for row in repeated] == [one for call in calls for one in call[4]]

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def reuse_ids(self, data: st.DataObject) -> None:
        calls = data.draw(st.sampled_from(self.done))
        others = [
            self.make(stream, after, key, [NoteStarred(stars=1000) for _ in events], ids)
            for stream, after, key, events, ids in calls
        ]
        with pytest.raises(EventIdReused):
            append(*others)

    @rule(key=KEYS)
    def erase(self, key: int) -> None:
        erase_key(self.keys[key])
        self.erased.add(key)

    @rule()
    def order_and_follow(self) -> None:
        asyncio.run(Sequencer().order())
        run_following()
        log = read_log(after=0, limit=100_000)
        assert [row.position for row in log] == list(range(1, len(log) + 1))
        written = [row for row in log if isinstance(row.event, NoteWritten)]
        assert sum(Tally.objects.values_list("notes", flat=True)) == len(written)
        for stream, standing in self.model.items():
            mine = [row.event_id for row in log if row.stream_id == self.streams[stream]]
            assert mine == [one.event_id for one in standing]

    @rule()
    def check(self) -> None:
        assert rebuild.differences() == []

    @rule()
    def rebuild_all(self) -> None:
        with self.database.as_owner():
            rebuild.rebuild()
        assert rebuild.differences() == []

    @invariant()
    def streams_hold_what_was_appended(self) -> None:
        for stream, standing in self.model.items():
            stored = load(self.streams[stream])
            assert [row.version for row in stored] == list(range(1, len(standing) + 1))
            assert [row.event_id for row in stored] == [one.event_id for one in standing]
            assert [row.event for row in stored] == [self.seen(one) for one in standing]

    @invariant()
    def rows_follow_their_stream(self) -> None:
        for stream, standing in self.model.items():
            row = Note.objects.filter(note_id=self.streams[stream]).first()
            texts = [number for number, one in enumerate(standing) if isinstance(one.event, NoteWritten)]
            assert (row is not None) == bool(texts)
            if row is not None:
                later = [one.event for one in standing[texts[0] :]]
                stars = [event.stars for event in later if isinstance(event, NoteStarred)]
                assert row.stars == (stars[-1] if stars else 0)

    def seen(self, standing: Standing) -> Event:
        if isinstance(standing.event, NoteWritten) and standing.key in self.erased:
            return standing.event.model_copy(update={"text": ""})
        return standing.event


@pytest.fixture
def notes(database: Database) -> Iterator[Database]:
    with note_projections(database):
        yield database


@pytest.mark.flow
class TestTheStore:
    @pytest.mark.timeout(300)
    def test_does_what_the_model_does(self, notes: Database) -> None:
        machine = type("Machine", (StoreMachine,), {"database": notes})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=6,
                stateful_step_count=16,
                deadline=None,
                # One database for all sequences: replaying a failure to shrink it would take minutes.
                phases=[Phase.explicit, Phase.generate],
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
