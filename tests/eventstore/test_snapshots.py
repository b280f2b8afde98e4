"""States that are kept beside the events of long streams."""

import json
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cartrita.eventstore import (
    RecordedEvent,
    append,
    codec,
    erase_key,
    erase_subject,
    load,
    new_id,
    snapshots,
)
from cartrita.eventstore.aggregates import Aggregate, Kept
from cartrita.eventstore.models import AggregateSnapshot
from cartrita.eventstore.sealing import create_data_key
from cartrita.eventstore.snapshots import keep, load_state
from tests.eventstore.notes import NoteStarred, NoteWritten, a_key, starring, writing

pytestmark = pytest.mark.flow

State = dict[str, Any]
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


def extend(state: State, recorded: Sequence[RecordedEvent]) -> State:
    """Fold a note so that each event's place matters."""
    state = {"texts": list(state["texts"]), "stars": state["stars"]}
    for each in recorded:
        match each.event:
            case NoteWritten(text=text):
                state["texts"].append(text)
            case NoteStarred(stars=stars):
                state["stars"] = (state["stars"] * 31 + stars) % 1_000_003
    return state


def fold(recorded: Sequence[RecordedEvent]) -> State:
    return extend({"texts": [], "stars": 0}, recorded)


NOTE: Aggregate[State] = Aggregate(
    "store_tests.note",
    (NoteWritten,),
    fold,
    Kept(extend, lambda state: json.dumps(state).encode(), json.loads, ("tests.eventstore.notes",)),
)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep states of short streams too."""
    monkeypatch.setattr(snapshots, "FIRST_AT", 3)
    monkeypatch.setattr(snapshots, "EVERY", 2)


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep nothing but what the test says."""
    monkeypatch.setattr(snapshots, "EVERY", 10**9)


def a_note(key: UUID | None, *texts: str) -> UUID:
    stream = new_id()
    append(writing(stream, key or a_key(), *texts))
    return stream


def kept_version(stream: UUID) -> int | None:
    return AggregateSnapshot.objects.filter(stream_id=stream).values_list("version", flat=True).first()


def change_row(stream: UUID, change: str, *values: bytes) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"update aggregate_snapshot set {change} where stream_id = %s", [*values, stream])
        assert cursor.rowcount == 1


@pytest.mark.usefixtures("database")
class TestLoadState:
    def test_is_that_of_no_events_for_a_stream_that_does_not_exist(self) -> None:
        loaded = load_state(NOTE, new_id())
        assert (loaded.state, loaded.version, loaded.last) == (fold([]), 0, None)

    def test_keeps_nothing_of_short_streams(self) -> None:
        stream = a_note(None, *map(str, range(20)))
        append(starring(stream, *range(450), after=20))
        load_state(NOTE, stream)
        assert kept_version(stream) is None
        append(starring(stream, *range(30), after=470))
        load_state(NOTE, stream)
        assert kept_version(stream) == 500
        append(starring(stream, *range(99), after=500))
        load_state(NOTE, stream)
        assert kept_version(stream) == 500

    def test_reads_only_the_last_events_of_a_long_one(
        self, at_once: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = a_note(None, "a", "b", "c", "d")
        load_state(NOTE, stream)
        append(starring(stream, 5, after=4))
        decoded: list[int] = []
        real = codec.decode

        def decode(row: codec.Row, ciphers: codec.Ciphers) -> RecordedEvent:
            decoded.append(row[2])
            return real(row, ciphers)

        monkeypatch.setattr(codec, "decode", decode)
        assert load_state(NOTE, stream).state == {"texts": list("abcd"), "stars": 5}
        assert decoded == [4, 5]

    def test_keeps_after_the_commit_and_nothing_of_what_is_rolled_back(self, at_once: None) -> None:
        stream = a_note(None, "a", "b", "c")
        with transaction.atomic():
            load_state(NOTE, stream)
            assert kept_version(stream) is None
        assert kept_version(stream) == 3
        with transaction.atomic():
            append(starring(stream, 1, 2, after=3))
            assert load_state(NOTE, stream).version == 5
            transaction.set_rollback(True)
        assert kept_version(stream) == 3
        assert load_state(NOTE, stream).version == 3

    def test_never_goes_back(self, never: None) -> None:
        stream = a_note(None, "a", "b")
        early = load_state(NOTE, stream)
        append(starring(stream, 1, after=2))
        keep(NOTE, load_state(NOTE, stream))
        keep(NOTE, early)
        assert kept_version(stream) == 3

    @pytest.mark.parametrize(
        ("change", "values"),
        [
            ("fold_version = 'older'", ()),
            ("version = 2", ()),
            ("version = 400", ()),
            ("event_id = gen_random_uuid()", ()),
            ("state = %s", (b"",)),
            ("state = set_byte(state, length(state) - 1, get_byte(state, length(state) - 1) # 1)", ()),
            ("state = substring(state for 40)", ()),
            ("key_id = null", ()),
            ("key_id = gen_random_uuid()", ()),
        ],
    )
    def test_passes_over_what_does_not_fit(self, change: str, values: tuple[bytes, ...], never: None) -> None:
        stream = a_note(None, "a", "b", "c", "d")
        keep(NOTE, load_state(NOTE, stream))
        change_row(stream, change, *values)
        assert load_state(NOTE, stream).state == {"texts": list("abcd"), "stars": 0}

    def test_passes_over_another_streams_under_the_same_key(self, never: None) -> None:
        key = a_key()
        one, other = a_note(key, "mine"), a_note(key, "theirs")
        keep(NOTE, load_state(NOTE, one))
        keep(NOTE, load_state(NOTE, other))
        theirs = bytes(AggregateSnapshot.objects.get(stream_id=other).state)
        change_row(one, "state = %s", theirs)
        assert load_state(NOTE, one).state["texts"] == ["mine"]

    def test_passes_over_what_does_not_restore(self, never: None) -> None:
        stream = a_note(None, "a")

        def broken(content: bytes) -> State:
            raise KeyError(content)

        keep(NOTE, load_state(NOTE, stream))
        kept = NOTE.kept
        assert kept is not None
        other = Aggregate(NOTE.name, NOTE.begins_with, fold, Kept(extend, kept.dump, broken, kept.modules))
        assert load_state(other, stream).state["texts"] == ["a"]

    def test_makes_anew_what_was_altered(self, at_once: None) -> None:
        stream = a_note(None, "a", "b", "c")
        load_state(NOTE, stream)
        change_row(stream, "fold_version = 'older', version = 9")
        load_state(NOTE, stream)
        found = AggregateSnapshot.objects.get(stream_id=stream)
        assert NOTE.kept is not None
        assert (found.version, found.fold_version) == (3, NOTE.kept.fold_version)

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_is_the_fold_from_the_beginning(self, data: st.DataObject, never: None) -> None:
        key, stream, version = a_key(), new_id(), 0
        states: list[Any] = []
        for _ in range(data.draw(st.integers(1, 6), label="steps")):
            texts = data.draw(st.lists(TEXTS, max_size=3))
            stars = data.draw(st.lists(st.integers(0, 99), max_size=3))
            append(
                writing(stream, key, *texts, after=version),
                starring(stream, *stars, after=version + len(texts)),
            )
            version += len(texts) + len(stars)
            states.append(load_state(NOTE, stream))
            assert states[-1].state == fold(load(stream))
            # Any state of the past is kept, also one that is older than what is kept.
            if data.draw(st.booleans(), label="keep"):
                keep(NOTE, data.draw(st.sampled_from(states)))
            assert load_state(NOTE, stream).state == fold(load(stream))
            assert load_state(NOTE, stream).version == version


@pytest.mark.usefixtures("database", "at_once")
class TestErasure:
    @pytest.mark.parametrize("erase", [erase_key, None])
    def test_takes_what_is_kept_along(self, erase: Callable[[UUID], None] | None) -> None:
        subject = new_id()
        key = create_data_key(subject_id=subject, scope="session")
        stream = a_note(key, "my secret", "b", "c")
        load_state(NOTE, stream)
        row = AggregateSnapshot.objects.get(stream_id=stream)
        assert row.key_id == key
        assert b"secret" not in bytes(row.state)
        if erase is not None:
            erase(key)
        else:
            erase_subject(subject)
        assert kept_version(stream) is None
        assert load_state(NOTE, stream).state["texts"] == ["", "", ""]
        assert kept_version(stream) is None

    def test_leaves_what_came_back_unreadable(self) -> None:
        key = a_key()
        stream = a_note(key, "my secret", "b", "c")
        load_state(NOTE, stream)
        row = AggregateSnapshot.objects.get(stream_id=stream)
        erase_key(key)
        row.save(force_insert=True)
        assert load_state(NOTE, stream).state["texts"] == ["", "", ""]

    def test_nothing_is_kept_of_what_several_keys_seal(self) -> None:
        stream = a_note(None, "a", "b")
        append(writing(stream, a_key(), "c", "d", after=2))
        assert load_state(NOTE, stream).state["texts"] == list("abcd")
        assert kept_version(stream) is None


class TestFoldVersion:
    def test_changes_with_the_code(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def version() -> str:
            return Kept(extend, json.dumps, json.loads, ("tests.eventstore.notes",)).fold_version  # type: ignore[arg-type]

        before = version()
        assert before == version()
        monkeypatch.setattr("cartrita.eventstore.aggregates.getsource", lambda module: "changed")
        assert version() != before
