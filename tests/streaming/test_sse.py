"""A session as server-sent events, from a real server: rights, resuming, texts, endings."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self
from uuid import UUID

import httpx
import psycopg
import pytest
import uvicorn
from django.core.asgi import get_asgi_application
from django.db import connection

from cartrita.accounts import commands as accounts
from cartrita.eventstore import Append, Context, append, async_pool, in_database_thread, new_id
from cartrita.eventstore.aio import DATABASE_THREADS, POOL_CONNECTIONS
from cartrita.eventstore.log import aepoch, aread_log
from cartrita.streaming import sse
from cartrita.streaming.deltas import open_message
from cartrita.streaming.hub import hub
from sessions_app import commands as sessions
from sessions_app.channel import describe
from sessions_app.queries import key_of
from tasks_app.run import AnswerHeld, RunFinished
from tests.accounts.people import Person, someone
from tests.databases import Database

pytestmark = pytest.mark.flow

SECONDS = 30


class Program:
    """A client with a token that reads streams."""

    def __init__(self, url: str, secret: str) -> None:
        self.client = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=SECONDS
        )

    @asynccontextmanager
    async def stream(
        self, session_id: UUID, *, after: int | None = None, last: int | str | None = None
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Yield the frames of a stream: `event`, `id` (None without) and `data`."""
        async with self.client.stream(
            "GET",
            f"/api/v2/sessions/{session_id}/stream",
            params={} if after is None else {"after": after},
            headers={"Accept": sse.CONTENT_TYPE, **({} if last is None else {"Last-Event-ID": str(last)})},
        ) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["Content-Type"] == sse.CONTENT_TYPE
            yield frames(response)


async def frames(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            number = fields.get("id")
            yield {
                "event": fields["event"],
                "id": None if number is None else int(number.partition("@")[0]),
                "epoch": "" if number is None else number.partition("@")[2],
                "data": json.loads(fields["data"]),
            }
            fields = {}


async def until(stream: AsyncIterator[dict[str, Any]], event: str, **wanted: Any) -> list[dict[str, Any]]:
    """Return the frames up to the first of that name whose data has these values."""
    found = []
    async with asyncio.timeout(SECONDS):
        async for frame in stream:
            found.append(frame)
            if frame["event"] == event and wanted.items() <= frame["data"].items():
                return found
    raise AssertionError(f"the stream ended without {event}: {found}")


@pytest.fixture
async def address(ordered_log: None) -> AsyncIterator[str]:
    await hub().start()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            get_asgi_application(), lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
        running = uvicorn.Server(config)
        task = asyncio.create_task(running.serve(sockets=[listening]))
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        await hub().stop()
        running.should_exit = True
        await task


@pytest.fixture
async def ann(address: str) -> Person:
    return await in_database_thread(someone)


@pytest.fixture
async def program(address: str, ann: Person) -> AsyncIterator[Program]:
    made = Program(address, await in_database_thread(ann.token))
    async with made.client:
        yield made


@pytest.fixture
async def session_id(ann: Person) -> UUID:
    return await in_database_thread(
        sessions.create_session, user_id=ann.id, workspace_id=ann.workspace_id, actor=f"user:{ann.id}"
    )


async def post(session_id: UUID, content: str) -> UUID:
    message_id = new_id()
    await in_database_thread(
        sessions.post_message,
        session_id=session_id,
        message_id=message_id,
        role="user",
        content=content,
        actor="test",
    )
    return message_id


async def reply(session_id: UUID, parent: UUID, reply_id: UUID, content: str) -> None:
    await in_database_thread(
        sessions.post_reply,
        session_id=session_id,
        message_id=reply_id,
        parent=parent,
        plan_id=new_id(),
        run_id=new_id(),
        content=content,
        model="test",
        actor="agent:test",
    )


class TestStream:
    async def test_shows_each_event_as_the_socket_does(self, program: Program, session_id: UUID) -> None:
        await post(session_id, "Grüße\n🌍")
        async with program.stream(session_id, after=0) as stream:
            [welcome, *shown] = await until(stream, "ev", type="sessions_app.MessagePosted")
        assert welcome["event"] == "welcome"
        assert welcome["data"]["recovered"] is True
        recorded = [each for each in await aread_log(after=0, session_id=session_id) if describe(each)]
        assert [frame["id"] for frame in shown] == [each.position for each in recorded]
        assert [frame["data"]["d"] for frame in shown] == [describe(each) for each in recorded]
        assert shown[-1]["data"]["prev"] == shown[-2]["id"]

    async def test_goes_on_after_a_cut_without_loss_or_repetition(
        self, program: Program, session_id: UUID
    ) -> None:
        have, positions = 0, list[int]()
        for number in range(6):
            async with program.stream(session_id, last=have) as stream:
                await post(session_id, f"message {number}")
                async with asyncio.timeout(SECONDS):
                    async for frame in stream:
                        if frame["event"] != "ev":
                            continue
                        assert frame["data"]["prev"] <= have < frame["id"]
                        have = frame["id"]
                        positions.append(have)
                        if frame["data"]["d"].get("content") == f"message {number}":
                            break
            # What comes while nobody reads.
            await post(session_id, f"unread {number}")
        async with program.stream(session_id, last=have) as stream:
            rest = await until(stream, "ev", type="sessions_app.MessagePosted")
        positions += [frame["id"] for frame in rest if frame["event"] == "ev"]
        log = await aread_log(after=0, session_id=session_id)
        assert positions == [each.position for each in log if describe(each) is not None]

    async def test_begins_with_a_snapshot_without_a_position(
        self, program: Program, session_id: UUID
    ) -> None:
        await post(session_id, "before")
        async with program.stream(session_id) as stream:
            [welcome, snapshot] = await until(stream, "snapshot")
            assert welcome["data"]["recovered"] is False
            assert snapshot["id"] == snapshot["data"]["head"]
            await post(session_id, "after")
            await until(stream, "ev", type="sessions_app.MessagePosted")

    async def test_begins_with_a_snapshot_after_a_position_of_another_epoch(
        self, program: Program, session_id: UUID
    ) -> None:
        await post(session_id, "before")
        async with program.stream(session_id, after=0) as stream:
            last = (await until(stream, "ev", type="sessions_app.MessagePosted"))[-1]
        have = last["id"]
        epoch = await aepoch()
        for known, recovered in ((epoch, True), ("7-0123456789abcdef", False)):
            async with program.stream(session_id, last=f"{have}@{known}") as stream:
                [welcome] = await until(stream, "welcome")
            assert (welcome["data"]["recovered"], welcome["data"]["epoch"]) == (recovered, hub().epoch)

    async def test_shows_texts_as_they_are_written_again_from_their_start_after_a_cut(
        self, program: Program, session_id: UUID
    ) -> None:
        message_id, reply_id = await post(session_id, "Hello?"), new_id()
        async with open_message(session_id, reply_id, 1) as writer:
            await writer.write("Guten ")
            await writer.flush()
            async with program.stream(session_id, after=0) as stream:
                seen = await until(stream, "delta")
                assert (seen[-1]["data"]["off"], seen[-1]["data"]["text"]) == (0, "Guten ")
                assert seen[-1]["id"] is None
                have = max(frame["id"] or 0 for frame in seen)
            async with program.stream(session_id, last=have) as stream:
                again = (await until(stream, "delta"))[-1]["data"]
                assert (again["mid"], again["off"], again["text"]) == (str(reply_id), 0, "Guten ")
                await writer.write("Tag ☕")
                await writer.flush()
                more = (await until(stream, "delta"))[-1]["data"]
                assert (more["off"], more["end"], more["text"]) == (6, 13, "Tag ☕")
                await writer.complete()
                await reply(session_id, message_id, reply_id, "Guten Tag ☕")
                done = (await until(stream, "ev", type="sessions_app.ReplyPosted"))[-1]["data"]["d"]
                assert done["completed"]["text"] == "Guten Tag ☕"

    async def test_never_shows_an_answer_that_is_held(
        self, program: Program, ann: Person, session_id: UUID
    ) -> None:
        held = AnswerHeld(answer="Held words", citations=[], model="test", supported=None)
        ended = RunFinished(
            status="denied", answer="Held words", citations=[], model="test", supported=None, code="denied"
        )
        key_id = await in_database_thread(key_of, session_id)
        context = Context(workspace_id=ann.workspace_id, session_id=session_id, key_id=key_id)
        await in_database_thread(append, Append(new_id(), 0, [held, ended], context))
        await post(session_id, "Later")
        async with program.stream(session_id, after=0) as stream:
            shown = await until(stream, "ev", type="sessions_app.MessagePosted")
        async with program.stream(session_id) as stream:
            shown += await until(stream, "snapshot")
        listed = await program.client.get(f"/api/v2/sessions/{session_id}/events")
        assert "Later" in listed.text
        assert "Held words" not in listed.text + json.dumps(shown)

    async def test_takes_no_thread_and_no_database_connection(
        self, program: Program, session_id: UUID
    ) -> None:
        async with AsyncStreams() as streams:
            await until(await streams.open(program, session_id), "ev")
            await fill_pools()
            threads, connections = threading.active_count(), await in_database_thread(connection_count)
            for _ in range(5):
                await until(await streams.open(program, session_id), "ev")
            # What a request took it gives back a moment after its first words.
            async with asyncio.timeout(SECONDS):
                while threading.active_count() > threads:  # noqa: ASYNC110 - threads ring no bell
                    await asyncio.sleep(0.01)
                while await in_database_thread(connection_count) > connections:  # noqa: ASYNC110 - nor do backends
                    await asyncio.sleep(0.01)

    async def test_ends_after_some_bytes_and_goes_on_in_a_new_one(
        self, program: Program, session_id: UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sse, "STREAM_BYTES", 1)
        await post(session_id, "one")
        seen, have = [], 0
        while "sessions_app.MessagePosted" not in seen:
            async with program.stream(session_id, after=have) as stream:
                [_, event, bye] = await until(stream, "bye")
            assert (bye["data"]["code"], bye["data"]["retry_ms"]) == (4503, 0)
            seen.append(event["data"]["type"])
            have = event["id"]


class TestRights:
    async def test_are_those_of_the_session(
        self, program: Program, ann: Person, session_id: UUID, address: str
    ) -> None:
        bob = await in_database_thread(someone, "bob@example.org")
        path = f"/api/v2/sessions/{session_id}/stream"
        async with httpx.AsyncClient(base_url=address, headers={"Accept": sse.CONTENT_TYPE}) as client:
            nobody = await client.get(path)
            secret = await in_database_thread(bob.token)
            other = await client.get(path, headers={"Authorization": f"Bearer {secret}"})
        assert (nobody.status_code, other.status_code) == (401, 404)
        assert other.headers["Content-Type"] == "application/problem+json"
        assert other.json()["code"] == "session_not_found"
        wrong = await program.client.get(path, params={"after": "yesterday"})
        assert (wrong.status_code, wrong.json()["field"]) == (400, "after")

    async def test_end_with_the_token(self, program: Program, ann: Person, session_id: UUID) -> None:
        [token] = (await program.client.get("/api/v2/tokens")).json()["items"]
        async with program.stream(session_id, after=0) as stream:
            await until(stream, "ev")
            await in_database_thread(
                accounts.revoke_token, token_id=UUID(token["id"]), user_id=ann.id, actor="test"
            )
            assert (await until(stream, "bye"))[-1]["data"]["code"] == 4401
            assert [frame async for frame in stream] == []

    async def test_end_with_the_session(self, program: Program, ann: Person, session_id: UUID) -> None:
        await post(session_id, "Secret")
        async with program.stream(session_id, after=0) as stream:
            await until(stream, "ev")
            await in_database_thread(sessions.erase_session, session_id=session_id, actor=f"user:{ann.id}")
            assert (await until(stream, "bye"))[-1]["data"]["code"] == 4410

    async def test_allow_ten_at_once(self, program: Program, session_id: UUID) -> None:
        async with AsyncStreams() as streams:
            for _ in range(10):
                await until(await streams.open(program, session_id), "welcome")
            bye = await until(await streams.open(program, session_id), "bye")
        assert bye[-1]["data"]["code"] == 4429
        assert not hub().members or await gone()


class TestFeeds:
    async def test_hold_what_the_stream_shows(self, program: Program, session_id: UUID) -> None:
        for number in range(3):
            await post(session_id, f"message {number}")
        async with program.stream(session_id, after=0) as stream:
            last = (await aread_log(after=0, session_id=session_id))[-1].position
            shown = await until(stream, "ev", pos=last)
        path, items, cursor = f"/api/v2/sessions/{session_id}/events", [], None
        while True:
            answer = (
                await program.client.get(path, params={"limit": 2, **({"cursor": cursor} if cursor else {})})
            ).json()
            items += answer["items"]
            cursor = answer["next_cursor"]
            if cursor is None:
                break
        assert [one["position"] for one in items] == [each["id"] for each in shown if each["event"] == "ev"]
        assert [one["data"] for one in items] == [
            each["data"]["d"] for each in shown if each["event"] == "ev"
        ]
        newest = await program.client.get(
            path, params={"type": "sessions_app.MessagePosted", "after": items[-2]["position"]}
        )
        assert [one["data"]["content"] for one in newest.json()["items"]] == ["message 2"]
        wrong = await program.client.get(path, params={"type": "sessions_app.Nothing"})
        assert (wrong.status_code, wrong.json()["field"]) == (400, "type")

    async def test_of_the_workspace_are_for_those_who_audit_it_and_hold_no_text(
        self, program: Program, ann: Person, session_id: UUID, address: str
    ) -> None:
        await post(session_id, "Nobody else's business")
        assert (await program.client.get("/api/v2/events")).json()["code"] == "role_missing"
        eve = await in_database_thread(
            someone, "eve@example.org", workspace_id=ann.workspace_id, roles=("auditor",)
        )
        elsewhere = await in_database_thread(someone, "dan@example.org", roles=("auditor",))
        async with Program(address, await in_database_thread(eve.token)).client as client:
            answer = await client.get("/api/v2/events", params={"limit": 200})
            until = answer.json()["items"][-2]["position"]
            before = await client.get("/api/v2/events", params={"limit": 200, "until": until})
            assert before.json() == {"items": answer.json()["items"][:-1], "next_cursor": None}
            wrong = await client.get("/api/v2/events", params={"until": "soon"})
            assert (wrong.status_code, wrong.json()["field"]) == (400, "until")
        assert "business" not in answer.text
        assert {one["unreadable"] for one in answer.json()["items"]} == {None}
        found = [one for one in answer.json()["items"] if one["type"] == "sessions_app.MessagePosted"]
        assert [one["session_id"] for one in found] == [str(session_id)]
        async with Program(address, await in_database_thread(elsewhere.token)).client as client:
            others = await client.get("/api/v2/events", params={"limit": 200})
        assert str(ann.workspace_id) not in others.text
        assert not [one for one in others.json()["items"] if one["session_id"]]

    async def test_hold_what_this_version_cannot_read_by_its_name_alone(
        self, ann: Person, session_id: UUID, address: str, database: Database
    ) -> None:
        stream = new_id()
        with psycopg.connect(database.url, autocommit=True) as newer:
            newer.execute(
                "insert into event (stream_id, version, event_id, type, schema_version, recorded_at, "
                "workspace_id, session_id, actor, trace_id, data) values (%s, 1, gen_random_uuid(), "
                "'sessions_app.FromTomorrow', 1, now(), %s, %s, 'system', '', '{\"said\":\"my secret\"}')",
                [stream, ann.workspace_id, session_id],
            )
        await post(session_id, "After it")
        eve = await in_database_thread(
            someone, "eve@example.org", workspace_id=ann.workspace_id, roles=("auditor",)
        )
        async with Program(address, await in_database_thread(eve.token)).client as client:
            items = (await client.get("/api/v2/events", params={"limit": 200})).json()["items"]
        assert "my secret" not in str(items)
        assert "sessions_app.MessagePosted" in [one["type"] for one in items]
        (unknown,) = [one for one in items if one["unreadable"]]
        assert (unknown["type"], unknown["data"]) == ("sessions_app.FromTomorrow", {})
        assert f"Event 1 of stream {stream} at position {unknown['position']}" in unknown["unreadable"]
        async with Program(address, await in_database_thread(ann.token)).client as client:
            listed = await client.get(f"/api/v2/sessions/{session_id}/events")
        assert [one["type"] for one in listed.json()["items"]][-1] == "sessions_app.MessagePosted"
        assert "FromTomorrow" not in listed.text


class AsyncStreams:
    """Streams that stay open together."""

    def __init__(self) -> None:
        self._open: list[Any] = []
        self._read: list[Any] = []

    async def __aenter__(self) -> Self:
        return self

    async def open(self, program: Program, session_id: UUID) -> AsyncIterator[dict[str, Any]]:
        made = program.stream(session_id, after=0)
        self._open.append(made)
        # One that nobody holds is closed.
        self._read.append(await made.__aenter__())
        stream: AsyncIterator[dict[str, Any]] = self._read[-1]
        return stream

    async def __aexit__(self, *_: object) -> None:
        for made in reversed(self._open):
            await made.__aexit__(None, None, None)


async def gone() -> bool:
    async with asyncio.timeout(SECONDS):
        while hub().members:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)
    return True


async def fill_pools() -> None:
    """Open all connections and start all threads that the loop keeps: requests may take any of them."""
    together = threading.Barrier(DATABASE_THREADS, timeout=SECONDS)
    async with AsyncExitStack() as pooled:
        for _ in range(POOL_CONNECTIONS):
            await pooled.enter_async_context(async_pool().connection())

        def fill() -> None:
            connection_count()
            together.wait()

        await asyncio.gather(*(in_database_thread(fill) for _ in range(DATABASE_THREADS)))


def connection_count() -> int:
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from pg_stat_activity where datname = current_database()")
        return int(cursor.fetchone()[0])
