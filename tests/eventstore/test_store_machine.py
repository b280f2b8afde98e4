"""The store beside a model of a few lines, under whatever sequence of commands hypothesis can think of.

Commands are cut off before and after any statement, and their commit's answer is lost.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from unittest import mock
from uuid import UUID

import psycopg
import pytest
from django.db import Error, connection, transaction
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
    get_blob,
    head,
    load,
    new_id,
    projections,
    put_blob,
    read_log,
    rebuild,
    registry,
    run_following,
    upcaster,
)
from cartrita.eventstore.canonical import canonical_json
from cartrita.eventstore.collection import collect_blobs
from cartrita.eventstore.integrity import verify_log
from cartrita.eventstore.nodes import StoredTree
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


STATEMENTS = st.integers(1, 8)
NONE = timedelta(0)
# As stars stood before: read as NoteStarred.
FORMER_TYPE = "store_tests.NoteRated"
INSERT_FORMER = (
    "insert into event (stream_id, version, event_id, type, schema_version, recorded_at, workspace_id, "
    f"actor, trace_id, data) values (%s, %s, %s, '{FORMER_TYPE}', 1, now(), %s, 'system', '', %s)"
)


class Cut:
    """Kills the server's side of a connection before or after its n-th statement, commits included."""

    made = 0

    def __init__(self, database: Database, number: int, *, after: bool) -> None:
        self._database = database
        self._left = number
        self._after = after
        self._aside = False

    @contextlib.contextmanager
    def everything(self) -> Iterator[None]:
        """Count what Django's connection, and those of asyncio, do in the block."""
        with (
            mock.patch.object(psycopg.Cursor, "execute", self._around(psycopg.Cursor.execute)),
            mock.patch.object(psycopg.Connection, "commit", self._around(psycopg.Connection.commit)),
            mock.patch.object(
                psycopg.AsyncCursor, "execute", self._around_async(psycopg.AsyncCursor.execute)
            ),
        ):
            yield

    def _around(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def cut(it: Any, *args: Any, **options: Any) -> Any:
            if not self._aside and not self._after:
                self._count(it)
            result = run(it, *args, **options)
            if not self._aside and self._after:
                self._count(it)
            return result

        return cut

    def _around_async(self, run: Callable[..., Any]) -> Callable[..., Any]:
        async def cut(it: Any, *args: Any, **options: Any) -> Any:
            if not self._after:
                self._count(it)
            result = await run(it, *args, **options)
            if self._after:
                self._count(it)
            return result

        return cut

    def _count(self, it: Any) -> None:
        self._left -= 1
        if self._left == 0:
            self._aside = True
            pid = getattr(it, "connection", it).info.backend_pid
            with psycopg.connect(self._database.superuser_url, autocommit=True) as superuser:
                superuser.execute("select pg_terminate_backend(%s, 10000)", [pid])
            self._aside = False
            Cut.made += 1


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
        self.heads: list[tuple[int, bytes]] = []
        self.named: dict[str, tuple[bytes, int]] = {}

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

    @rule(
        parts=st.dictionaries(STREAMS, EVENTS, min_size=1, max_size=2),
        number=STATEMENTS,
        after=st.booleans(),
        again=st.booleans(),
    )
    def append_and_be_cut_off(
        self, parts: dict[int, list[Event]], number: int, *, after: bool, again: bool
    ) -> None:
        live = next((key for key in range(2) if key not in self.erased), None)
        if live is None:
            return
        calls = tuple(
            (stream, len(self.model[stream]), live, events, [new_id() for _ in events])
            for stream, events in parts.items()
        )
        with contextlib.suppress(Error, psycopg.Error), Cut(self.database, number, after=after).everything():
            append(*(self.make(*call) for call in calls))
        self.connect_again()
        if again:
            append(*(self.make(*call) for call in calls))
        stand = [len(load(self.streams[call[0]])) > call[1] for call in calls]
        assert all(stand) or not any(stand), "a part of an append stands"
        if all(stand):
            for stream, _, key, events, ids in calls:
                self.stand(stream, key, events, ids)
            self.done.append(calls)
        else:
            assert not again

    @rule(number=st.integers(1, 10), after=st.booleans())
    def order_and_be_cut_off(self, number: int, *, after: bool) -> None:
        with contextlib.suppress(psycopg.Error), Cut(self.database, number, after=after).everything():
            asyncio.run(Sequencer().order())

    @rule()
    def order_by_one_that_stood_still(self) -> None:
        """A second one goes on from a tick after which others have ticked."""
        first, second = Sequencer(), Sequencer()

        async def order() -> None:
            await asyncio.gather(first.order(), second.order(), Sequencer().order())

        asyncio.run(order())

    @rule(stream=STREAMS, stars=st.integers(0, 999))
    def find_a_former_shape(self, stream: int, stars: int) -> None:
        version, event_id = len(self.model[stream]) + 1, new_id()
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("select pg_advisory_xact_lock_shared(%s)", [projections.INLINE_LOCK])
            stored = canonical_json({"rating": stars})
            cursor.execute(INSERT_FORMER, [self.streams[stream], version, event_id, WORKSPACE, stored])
            projections.run_inline(load(self.streams[stream], after_version=version - 1))
        self.stand(stream, 0, [NoteStarred(stars=stars)], [event_id])

    @rule(stream=STREAMS, content=st.binary(max_size=20), named=st.booleans(), together=st.booleans())
    def store_a_blob(self, stream: int, content: bytes, *, named: bool, together: bool) -> None:
        live = next((key for key in range(2) if key not in self.erased), None)
        if live is None:
            return
        with transaction.atomic() if together else contextlib.nullcontext():
            name = put_blob(content, key_id=None)
            if named:
                events: list[Event] = [NoteWritten(text=f"see {name}")]
                ids = [new_id()]
                append(self.make(stream, len(self.model[stream]), live, events, ids))
                self.stand(stream, live, events, ids)
                self.named[name] = content, live

    @rule()
    def collect(self) -> None:
        collect_blobs(grace=NONE)

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
        assert verify_log().verified
        if size := head():
            tree = StoredTree()
            self.heads.append((size, tree.root(size)))
            for first, root in self.heads:
                assert tree.consistency(first, size).proves(root, self.heads[-1][1])
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

    @invariant()
    def named_blobs_stand(self) -> None:
        for name, (content, key) in self.named.items():
            # What only an erased text named nobody can ask for.
            if key not in self.erased:
                assert get_blob(name) == content

    def connect_again(self) -> None:
        connection.close()

    def seen(self, standing: Standing) -> Event:
        if isinstance(standing.event, NoteWritten) and standing.key in self.erased:
            return standing.event.model_copy(update={"text": ""})
        return standing.event


@pytest.fixture
def notes(database: Database) -> Iterator[Database]:
    with note_projections(database), mock.patch.dict(registry._upcasters):
        upcaster(FORMER_TYPE, 1, to_type=NoteStarred.type_name, to_version=1)(
            lambda stored: {"stars": stored["rating"], "at": None}
        )
        yield database


@pytest.mark.flow
class TestTheStore:
    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize(
        ("examples", "steps"), [(6, 20), pytest.param(25, 40, marks=pytest.mark.slow)], ids=["some", "many"]
    )
    def test_does_what_the_model_does(self, notes: Database, examples: int, steps: int) -> None:
        machine = type("Machine", (StoreMachine,), {"database": notes})
        Cut.made = 0
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                # One database for all sequences: replaying a failure to shrink it would take minutes.
                phases=[Phase.explicit, Phase.generate],
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        assert Cut.made > 0
