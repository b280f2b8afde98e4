"""Streams and read models as they were."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command

from cartrita.errors import BadInput
from cartrita.eventstore import RecordedEvent, Sequencer, append, erase_key, head, new_id, run_following
from cartrita.eventstore.aggregates import AggregatesWrong, aggregate, aggregate_of, as_json
from cartrita.eventstore.as_of import NothingThen, load_as_of, position_at, state_as_of
from cartrita.eventstore.rebuild import differences, rows_as_of
from tests.databases import Database
from tests.eventstore.notes import (
    Note,
    NoteStarred,
    NoteWritten,
    Tally,
    a_key,
    note_projections,
    starring,
    writing,
)

pytestmark = pytest.mark.flow

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def stars_and_texts(recorded: list[RecordedEvent]) -> tuple[int, list[str]]:
    """Fold a note: its newest stars, and all its texts."""
    stars = [each.event.stars for each in recorded if isinstance(each.event, NoteStarred)]
    return (stars[-1] if stars else 0), [
        each.event.text for each in recorded if isinstance(each.event, NoteWritten)
    ]


@pytest.fixture(autouse=True)
def note_aggregate(monkeypatch: pytest.MonkeyPatch) -> None:
    aggregate_of(a_recorded())  # the product's are loaded
    monkeypatch.setattr("cartrita.eventstore.aggregates._by_name", {})
    aggregate("store_tests.note", NoteWritten, fold=lambda recorded: stars_and_texts(list(recorded)))


def a_recorded() -> RecordedEvent:
    nothing = UUID(int=0)
    return RecordedEvent(
        position=None, stream_id=nothing, version=1, event_id=nothing, type_name="x.Y", schema_version=1,
        recorded_at=NOON, workspace_id=nothing, session_id=None, causation_id=None, actor="system",
        trace_id="", key_id=None, event=NoteStarred(stars=1), data=b"",
    )  # fmt: skip


@pytest.fixture
def notes(database: Database) -> Iterator[None]:
    with note_projections(database):
        yield


def order() -> None:
    asyncio.run(Sequencer().order())


def run(command: str, *arguments: str) -> str:
    out = StringIO()
    call_command(command, *arguments, stdout=out)
    return out.getvalue()


class TestAggregate:
    def test_refuses_one_that_is_not_told_apart(self) -> None:
        with pytest.raises(AggregatesWrong, match=r"store_tests\.note and store_tests\.other"):
            aggregate("store_tests.other", NoteWritten, fold=len)
        with pytest.raises(AggregatesWrong):
            aggregate("store_tests.note", NoteStarred, fold=len)

    def test_shows_any_state_as_json(self) -> None:
        state = {UUID(int=1): (frozenset({"b", "a"}), NoteStarred(stars=1), b"\x01", NOON, None, 0.5)}
        assert json.loads(as_json(state)) == {
            str(UUID(int=1)): [
                ["a", "b"],
                {"stars": 1, "at": None},
                "01",
                "2026-01-01T12:00:00.000000Z",
                None,
                0.5,
            ]
        }


@pytest.mark.usefixtures("notes")
class TestStateAsOf:
    def test_is_the_fold_of_what_existed_then(self) -> None:
        key, stream = a_key(), new_id()
        append(writing(stream, key, "one"), recorded_at=NOON)
        append(starring(stream, 3, 4, after=1), recorded_at=NOON + timedelta(hours=1))
        order()
        append(writing(stream, key, "two", after=3), recorded_at=NOON + timedelta(hours=2))
        assert state_as_of(stream, unseal=True).state == (4, ["one", "two"])
        assert state_as_of(stream, version=2, unseal=True).state == (3, ["one"])
        # The last event has no position yet: the log does not have it.
        assert state_as_of(stream, position=3, unseal=True).state == (4, ["one"])
        then = state_as_of(stream, at=NOON + timedelta(minutes=59))
        assert (then.aggregate, then.state, then.last.version) == ("store_tests.note", (0, ["<sealed>"]), 1)
        erase_key(key)
        assert state_as_of(stream, unseal=True).state == (4, ["<erased>", "<erased>"])

    def test_holds_nothing_of_later_where_a_clock_went_back(self) -> None:
        stream = new_id()
        for version, minutes in enumerate((0, 10, 5)):
            append(starring(stream, version, after=version), recorded_at=NOON + timedelta(minutes=minutes))
        assert len(load_as_of(stream, at=NOON + timedelta(minutes=6))) == 1

    def test_says_what_has_not_come(self) -> None:
        stream = new_id()
        with pytest.raises(NothingThen, match="There is no stream"):
            state_as_of(stream)
        append(starring(stream, 1), recorded_at=NOON)
        with pytest.raises(NothingThen, match="it begins after the head of the log, recorded 2026-01-01T12"):
            state_as_of(stream, position=0)
        with pytest.raises(BadInput, match="has the versions 1 to 1"):
            state_as_of(stream, version=2)
        with pytest.raises(BadInput, match="has the positions 1 to 0"):
            state_as_of(stream, position=1)
        with pytest.raises(BadInput, match="needs a zone"):
            state_as_of(stream, at=NOON.replace(tzinfo=None))
        with pytest.raises(BadInput, match="one of"):
            state_as_of(stream, version=1, position=1)

    def test_shows_the_events_of_a_stream_that_nothing_folds(self) -> None:
        stream = new_id()
        append(starring(stream, 5))
        shown = json.loads(run("state_at", str(stream), "--json"))
        assert shown["aggregate"] is None
        assert shown["state"] == [{"type": "store_tests.NoteStarred", "stars": 5, "at": None}]

    def test_is_shown_by_a_command(self) -> None:
        key, stream = a_key(), new_id()
        append(writing(stream, key, "secret"), starring(stream, 2, after=1), recorded_at=NOON)
        order()
        shown = json.loads(run("state_at", str(stream), "--version", "1", "--json"))
        assert shown == {
            "stream_id": str(stream), "aggregate": "store_tests.note", "version": 1, "position": 1,
            "recorded_at": "2026-01-01T12:00:00Z", "erased": False, "state": [0, ["<sealed>"]],
        }  # fmt: skip
        assert "secret" not in run("state_at", str(stream), "--position", "2")
        assert "secret" in run("state_at", str(stream), "--at", "2026-01-01T12:00:00Z", "--unseal")
        for wrong, message in (
            (("not-an-id",), "STREAM: 'not-an-id' is no id: give a UUID"),
            ((str(stream), "--version", "-1"), "--version: '-1' is no position"),
            ((str(stream), "--position", "x"), "--position: 'x' is no position"),
            ((str(stream), "--at", "noon"), "--at: 'noon' is no time"),
            ((str(stream), "--version", "9"), "version: The stream .* has the versions 1 to 2"),
            ((str(new_id()),), "stream: There is no stream"),
        ):
            with pytest.raises(CommandError, match=message):
                run("state_at", *wrong)


class TestPositionAt:
    def test_is_that_of_the_last_tick_until_then(self, database: Database) -> None:
        assert position_at(NOON) == 0
        before = datetime.now(UTC)
        times = []
        for count in range(1, 8):
            append(starring(new_id(), count), starring(new_id(), count))
            order()
            times.append(datetime.now(UTC))
        assert position_at(before) == 0
        assert [position_at(at) for at in times] == [2, 4, 6, 8, 10, 12, 14]


@pytest.mark.usefixtures("notes")
class TestRowsAsOf:
    def test_are_those_that_a_live_table_had(self) -> None:
        key, streams = a_key(), [new_id() for _ in range(3)]
        seen: dict[int, tuple[list[tuple[UUID, int]], list[int]]] = {}
        appends = [
            *(writing(stream, key, "text") for stream in streams),
            starring(streams[0], 1, after=1),
            starring(streams[2], 7, after=1),
            starring(streams[0], 2, after=2),
        ]
        for each in appends:
            append(each)
            order()
            run_following()
            rows = list(Note.objects.order_by("pk").values_list("note_id", "stars"))
            seen[head()] = rows, list(Tally.objects.values_list("notes", flat=True))
        for position, (notes, tally) in seen.items():
            then = rows_as_of("Note", position=position)
            assert [(row["note_id"], row["stars"]) for row in then] == notes
            assert [row["notes"] for row in rows_as_of("store_tests_tally", position=position)] == tally
        assert rows_as_of("note", position=0) == []
        assert differences() == []

    def test_have_no_event_that_the_log_does_not_have_yet(self) -> None:
        stream = new_id()
        append(writing(stream, a_key(), "text"))
        order()
        append(starring(stream, 9, after=1))
        assert [row["stars"] for row in rows_as_of("Note", position=1)] == [0]
        assert Note.objects.get().stars == 9

    def test_are_filtered_and_their_text_is_veiled(self) -> None:
        keys, streams = [a_key(), a_key()], [new_id(), new_id()]
        for key, stream in zip(keys, streams, strict=True):
            append(writing(stream, key, "secret"))
        order()
        erase_key(keys[1])
        order()
        position = str(head())
        assert "secret" not in run("read_model_at", "Note", "--position", position)
        lines = run("read_model_at", "Note", "--position", position, "--json", "--unseal").splitlines()
        shown = [json.loads(line) for line in lines]
        assert {row["note_id"]: row["text"] for row in shown} == {
            str(streams[0]): "secret",
            str(streams[1]): "<erased>",
        }
        only = run("read_model_at", "note", "--position", "2", "--filter", f"note_id={streams[0]}")
        assert only.splitlines()[1:] == ["1 row as of position 2"]
        assert "text=<sealed>" in only

    def test_refuses_what_there_is_not(self) -> None:
        for wrong, message in (
            (
                ("Nothing", "--position", "0"),
                "model: 'Nothing' is no read model; there are: store",
            ),
            (("Note", "--position", "1"), "position: The log has the positions 1 to 0"),
            (("Note", "--position", "0", "--filter", "x"), "--filter: 'x' is no filter"),
            (
                ("Note", "--position", "0", "--filter", "x=1"),
                "by 'x'; its fields are: note_id",
            ),
            (("Note", "--position", "0", "--filter", "text=a"), "cannot be filtered by 'text'"),
            (("Note", "--position", "0", "--filter", "stars=many"), "filter: stars=many"),
            (("Note",), "one of the arguments --position --at is required"),
        ):
            with pytest.raises(CommandError, match=message):
                run("read_model_at", *wrong)
