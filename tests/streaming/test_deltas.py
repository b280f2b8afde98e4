"""The append buffer of texts in progress, on a real database."""

import asyncio
import hashlib
from uuid import UUID

import psycopg
import pytest

from cartrita.errors import BadInput
from cartrita.eventstore import create_data_key, erase_key, in_database_thread, new_id
from cartrita.eventstore.sealing import Erased
from cartrita.streaming import deltas
from cartrita.streaming.deltas import AttemptSuperseded, Delta, DeltaWriter, open_message, read_deltas
from tests.databases import Database

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ordered_log")]


@pytest.fixture
def session_id() -> UUID:
    return new_id()


@pytest.fixture
def message_id() -> UUID:
    return new_id()


async def stored(session_id: UUID) -> str:
    return "".join(delta.text for delta in await read_deltas(session_id, {}))


class TestWriter:
    async def test_stores_text_by_byte_offset(self, session_id: UUID, message_id: UUID) -> None:
        async with open_message(session_id, message_id, 1) as writer:
            await writer.write("Grüße, ")
            await writer.flush()
            await writer.write("🌍")
            done = await writer.complete()
        assert await read_deltas(session_id, {}) == [
            Delta(session_id, message_id, 1, 0, 9, "Grüße, "),
            Delta(session_id, message_id, 1, 9, 13, "🌍"),
        ]
        assert done.bytes == 13
        assert done.sha256 == hashlib.sha256("Grüße, 🌍".encode()).hexdigest()

    async def test_seals_what_it_stores(self, database: Database, session_id: UUID, message_id: UUID) -> None:
        def a_key() -> UUID:
            return create_data_key(subject_id=new_id(), scope="session")

        key_id = await in_database_thread(a_key)
        async with open_message(session_id, message_id, 1, key_id=key_id) as writer:
            await writer.write("Grüße")
            await writer.flush()
            with psycopg.connect(database.url) as connection:
                row = connection.execute("SELECT text FROM streaming_delta").fetchone()
            assert row is not None
            assert row[0].startswith("sealed:1:")
            assert await read_deltas(session_id, {}) == [Delta(session_id, message_id, 1, 0, 7, "Grüße")]
            await in_database_thread(erase_key, key_id)
            assert await read_deltas(session_id, {}) == []
        with pytest.raises(Erased):
            async with open_message(session_id, message_id, 2, key_id=key_id):
                pass

    async def test_gathers_what_comes_quickly(self, session_id: UUID, message_id: UUID) -> None:
        async with open_message(session_id, message_id, 1) as writer:
            for _ in range(500):
                await writer.write("x")
            await writer.complete()
        pieces = await read_deltas(session_id, {})
        assert sum(delta.end - delta.start for delta in pieces) == 500
        assert len(pieces) < 50

    async def test_stores_16_kib_without_waiting(self, session_id: UUID, message_id: UUID) -> None:
        async with open_message(session_id, message_id, 1) as writer:
            await writer.write("x" * deltas.COALESCE_BYTES)
            assert await stored(session_id) == "x" * deltas.COALESCE_BYTES

    async def test_stores_what_it_has_when_it_is_cancelled(self, session_id: UUID, message_id: UUID) -> None:
        written = asyncio.Event()

        async def speak() -> None:
            async with open_message(session_id, message_id, 1) as writer:
                await writer.write("half ")
                await writer.write("a sentence")
                written.set()
                await asyncio.sleep(60)

        speaking = asyncio.create_task(speak())
        await written.wait()
        speaking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await speaking
        assert await stored(session_id) == "half a sentence"

    @pytest.mark.parametrize(("text", "said"), [("a\x00b", "NUL"), ("a\ud800", "surrogate")])
    async def test_refuses_what_no_text_may_hold(
        self, session_id: UUID, message_id: UUID, text: str, said: str
    ) -> None:
        async with open_message(session_id, message_id, 1) as writer:
            with pytest.raises(BadInput, match=said) as refused:
                await writer.write(text)
            assert refused.value.field == "text"
            await writer.write("fine")
        assert await stored(session_id) == "fine"

    async def test_is_heard_in_its_own_loop_once_stored(self, session_id: UUID, message_id: UUID) -> None:
        heard: list[Delta] = []
        deltas.listen_locally(heard.append)
        try:
            async with open_message(session_id, message_id, 1) as writer:
                await writer.write("word")
        finally:
            deltas.listen_locally(None)
        assert heard == await read_deltas(session_id, {})

    async def test_tells_other_processes_the_session_and_no_text(
        self, database: Database, session_id: UUID, message_id: UUID
    ) -> None:
        async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as listening:
            await listening.execute(f"LISTEN {deltas.NOTIFY_CHANNEL}")
            async with open_message(session_id, message_id, 1) as writer:
                await writer.write("secret")
            async for notification in listening.notifies():
                assert notification.payload == f"{deltas.wakes().token} {session_id}"
                break


class TestFence:
    async def test_lets_the_next_attempt_start_again(self, session_id: UUID, message_id: UUID) -> None:
        async with open_message(session_id, message_id, 1) as first:
            await first.write("first")
        async with open_message(session_id, message_id, 2) as second:
            await second.write("second")
        assert await stored(session_id) == "second"

    async def test_stops_the_attempt_before(self, session_id: UUID, message_id: UUID) -> None:
        async with open_message(session_id, message_id, 1) as first:
            await first.write("first")
            await first.flush()
            async with open_message(session_id, message_id, 2) as second:
                await first.write("more")
                with pytest.raises(AttemptSuperseded):
                    await first.flush()
                with pytest.raises(AttemptSuperseded):
                    await first.write("still more")
                await second.write("second")
        assert await stored(session_id) == "second"

    @pytest.mark.parametrize("attempt", [1, 2])
    async def test_refuses_an_attempt_that_is_not_new(
        self, session_id: UUID, message_id: UUID, attempt: int
    ) -> None:
        async with open_message(session_id, message_id, 2) as writer:
            await writer.write("kept")
        with pytest.raises(AttemptSuperseded):
            async with open_message(session_id, message_id, attempt):
                pass
        assert await stored(session_id) == "kept"

    async def test_stops_a_second_writer_of_the_same_attempt(
        self, session_id: UUID, message_id: UUID
    ) -> None:
        async with open_message(session_id, message_id, 1) as first:
            twin = DeltaWriter(session_id, message_id, 1)
            await first.write("longer than the twin's")
            await first.flush()
            await twin.write("twin")
            with pytest.raises(AttemptSuperseded):
                await twin.flush()
        assert await stored(session_id) == "longer than the twin's"


class TestCrashedDatabase:
    async def test_gets_the_whole_text_again(
        self, database: Database, session_id: UUID, message_id: UUID
    ) -> None:
        async with open_message(session_id, message_id, 1) as writer:
            await writer.write("before, ")
            await writer.flush()
            async with await psycopg.AsyncConnection.connect(database.owner_url, autocommit=True) as owner:
                # What recovery does to UNLOGGED tables.
                await owner.execute("TRUNCATE streaming_message, streaming_delta")
            await writer.write("after")
        assert await stored(session_id) == "before, after"


class TestPurge:
    async def test_removes_a_message_with_its_pieces(
        self, database: Database, session_id: UUID, message_id: UUID
    ) -> None:
        async with open_message(session_id, message_id, 1) as writer:
            await writer.write("gone")
        assert await deltas.purge_message(message_id) == 1
        assert await deltas.purge_message(message_id) == 0
        async with await psycopg.AsyncConnection.connect(database.url) as connection:
            cursor = await connection.execute("SELECT count(*) FROM streaming_delta")
            assert await cursor.fetchone() == (0,)

    async def test_removes_a_session_s_messages(self, session_id: UUID, message_id: UUID) -> None:
        other = new_id()
        for session, message in ((session_id, message_id), (session_id, new_id()), (other, new_id())):
            async with open_message(session, message, 1) as writer:
                await writer.write("x")
        assert await deltas.purge_session(session_id) == 2
        assert await stored(session_id) == ""
        assert await stored(other) == "x"

    async def test_removes_them_with_the_command_that_erases_the_session(
        self, session_id: UUID, message_id: UUID
    ) -> None:
        async with open_message(session_id, message_id, 1) as writer:
            await writer.write("x")
        assert await in_database_thread(deltas.erase_texts, session_id=session_id, actor="system") == 1
        assert await stored(session_id) == ""

    async def test_removes_what_is_long_completed_or_abandoned(
        self, database: Database, session_id: UUID
    ) -> None:
        names = [new_id() for _ in range(4)]
        for message in names:
            async with open_message(session_id, message, 1) as writer:
                await writer.write(str(message))
                if message in names[:2]:
                    await writer.complete()
        async with await psycopg.AsyncConnection.connect(database.url) as connection:
            await connection.execute(
                "UPDATE streaming_message SET completed_at = completed_at - interval '61 s'"
                " WHERE message_id = %s",
                [names[0]],
            )
            await connection.execute(
                "UPDATE streaming_message SET touched_at = touched_at - interval '61 min'"
                " WHERE message_id = %s",
                [names[2]],
            )
        assert await deltas.purge_old() == 2
        left = {delta.message_id for delta in await read_deltas(session_id, {})}
        assert left == {names[1], names[3]}

    async def test_stops_a_writer_that_still_lives(self, session_id: UUID, message_id: UUID) -> None:
        async with open_message(session_id, message_id, 1) as writer:
            await writer.write("erased")
            await writer.flush()
            await deltas.purge_session(session_id)
            await writer.write("more")
            with pytest.raises(AttemptSuperseded):
                await writer.flush()
        with pytest.raises(AttemptSuperseded):
            async with open_message(session_id, message_id, 2):
                pass
        assert await stored(session_id) == ""


class TestReadDeltas:
    async def test_returns_what_follows_the_known_offsets(self, session_id: UUID) -> None:
        first, second = new_id(), new_id()
        for message in (first, second):
            async with open_message(session_id, message, 2) as writer:
                for word in ("one ", "two "):
                    await writer.write(word)
                    await writer.flush()
        known = {first: (2, 4), second: (1, 4)}
        found = [(delta.message_id, delta.start) for delta in await read_deltas(session_id, known)]
        assert found == [(first, 4), (second, 0), (second, 4)]
