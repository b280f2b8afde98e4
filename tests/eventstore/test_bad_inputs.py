"""What is wrong in the database or was never right fails with words, and only for whoever needs it."""

import psycopg
import pytest

from cartrita.errors import BadInput, CartritaError
from cartrita.eventstore import Append, Context, Sequencer, append, in_database_thread, load, new_id, read_log
from cartrita.eventstore.codec import EventUnreadable
from cartrita.eventstore.integrity import verify_log
from cartrita.eventstore.sealing import SealBroken, UnknownKey, forget_keys
from tests.databases import Database
from tests.eventstore.happenings import WORKSPACE, Happened, happening
from tests.eventstore.notes import a_key, writing

pytestmark = pytest.mark.usefixtures("database", "loop_resources")


def vandalise(database: Database, statement: str, *parameters: object) -> None:
    """Do what only a superuser can: switch the triggers off first."""
    with psycopg.connect(database.superuser_url) as vandal:
        vandal.execute("alter table event disable trigger append_only")
        vandal.execute(statement.encode(), parameters)
        vandal.execute("alter table event enable always trigger append_only")


class TestDamagedRow:
    @pytest.mark.parametrize(
        ("stored", "says"),
        [
            (b"\\x00\\xff", "Happened"),
            (b"{", "Happened"),
            (b'{"number":"many","note":""}', "number"),
            (b'{"note":"","number":1,"more":2}', "more"),
            (b"[]", "Happened"),
        ],
    )
    async def test_is_named_and_fails_its_stream_alone(
        self, database: Database, stored: bytes, says: str
    ) -> None:
        damaged, whole = new_id(), new_id()
        await in_database_thread(append, happening(damaged))
        await in_database_thread(append, happening(whole))
        await Sequencer().order()
        vandalise(database, "update event set data = %s where stream_id = %s", stored, damaged)
        with pytest.raises(EventUnreadable, match=f"(?s)Event 1 of stream {damaged}.*{says}"):
            await in_database_thread(load, damaged)
        assert len(await in_database_thread(load, whole)) == 1
        assert [one.position for one in await in_database_thread(lambda: read_log(after=0))] == [1, 2]
        report = await in_database_thread(verify_log)
        assert (report.verified, report.first_bad_position) == (False, 1)

    async def test_is_found_though_it_says_the_same_in_another_form(self, database: Database) -> None:
        """JSON that is not canonical reads as before, and is not what was hashed."""
        stream = new_id()
        await in_database_thread(append, happening(stream, note="as it was"))
        await Sequencer().order()
        vandalise(database, "update event set data = %s", b'{ "number": 1, "note": "as it was" }')
        (recorded,) = await in_database_thread(load, stream)
        assert recorded.event == Happened(number=1, note="as it was")
        assert (await in_database_thread(verify_log)).first_bad_position == 1


class TestSealedText:
    def test_that_was_altered_is_named_by_its_event(self, database: Database) -> None:
        stream, key = new_id(), a_key()
        append(writing(stream, key, "mine"))
        other, its_key = new_id(), a_key()
        append(writing(other, its_key, "yours"))
        vandalise(
            database,
            "update event set data = (select data from event where stream_id = %s) where stream_id = %s",
            other, stream,
        )  # fmt: skip
        with pytest.raises(SealBroken, match=f"Event 1 of stream {stream}"):
            load(stream)
        assert [one.event.text for one in load(other)] == ["yours"]  # type: ignore[attr-defined]

    def test_whose_key_is_gone_reads_as_erased_and_takes_no_more(self, database: Database) -> None:
        stream, key = new_id(), a_key()
        append(writing(stream, key, "mine"))
        with psycopg.connect(database.superuser_url) as vandal:
            vandal.execute("delete from data_key")
        forget_keys()
        (recorded,) = load(stream)
        assert recorded.erased
        with pytest.raises(UnknownKey, match=str(key)):
            append(writing(stream, key, "more", after=1))


class TestAppend:
    @pytest.mark.parametrize("note", ["a\0b", "\ud800"])
    def test_takes_nothing_that_json_cannot_carry(self, note: str) -> None:
        with pytest.raises(BadInput, match="note") as caught:
            append(happening(new_id(), note=note))
        assert caught.value.field == "note"

    @pytest.mark.parametrize("number", [2**53, -(2**53) - 1])
    def test_takes_no_number_that_canonical_json_cannot_hold(self, number: int) -> None:
        one = Append(new_id(), 0, [Happened(number=number)], Context(workspace_id=WORKSPACE))
        with pytest.raises(CartritaError, match="number"):
            append(one)

    def test_counts_versions_from_nought(self) -> None:
        with pytest.raises(BadInput, match="expected_version"):
            append(Append(new_id(), -1, [Happened(number=1)], Context(workspace_id=WORKSPACE)))
