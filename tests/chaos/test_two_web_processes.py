"""Two web processes on one database, with Redis: kill -9 of each in turn loses nothing and doubles nothing.

CHAOS_ROUNDS is how many rounds of kills there are, CHAOS_SESSIONS how many sessions each of which has a
reader at both processes.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore

from cartrita.accounts.commands import create_workspace, ensure_user
from cartrita.accounts.models import User
from cartrita.eventstore import load
from cartrita.streaming.client import Stream
from sessions_app.commands import create_session
from sessions_app.session import MessagePosted, ReplyPosted
from tests.celery.conftest import own_redis
from tests.celery.processes import Redis
from tests.databases import Database
from tests.flows.conftest import consistent
from tests.servers import Script, Server, listening_server

__all__ = ["consistent", "own_redis"]

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900), pytest.mark.usefixtures("consistent")]

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "1"))
SESSIONS = int(os.environ.get("CHAOS_SESSIONS", "3"))
WORDS = 30
PATIENCE_SECONDS = 90.0


@dataclass
class Reader:
    """A client of one process that follows one session, and all that it was shown."""

    server: Server
    session_id: UUID
    stream: Stream
    positions: list[int] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def channel(self) -> str:
        return f"session:{self.session_id}"

    async def listen(self) -> None:
        async for update in self.stream:
            if update["do"] == "event":
                self.positions.append(update["event"]["pos"])
                self.events.append(update["event"])
            elif update["do"] == "text":
                self.texts.append(update)

    def replies(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == ReplyPosted.type_name]

    async def post(self, content: str) -> None:
        await self.stream.command("post_message", {"content": content}, channel=self.channel, cid=uuid4())


@dataclass
class Hall:
    """Two servers, a Redis, and sessions that are read at both."""

    servers: tuple[Server, Server]
    script: Script
    redis: Redis
    readers: list[Reader] = field(default_factory=list)
    posted: Counter[UUID] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def at(self, server: Server) -> list[Reader]:
        return [reader for reader in self.readers if reader.server is server]

    async def ask_everywhere(self, number: int) -> None:
        """Post one message in each session, in turn by way of either process."""
        words = " ".join(f"wörd{number}-{place}" for place in range(WORDS))
        self.script.answers({"text": words}, seconds_per_token=0.03)
        for place, reader in enumerate(self.at(self.servers[number % 2])):
            self.posted[reader.session_id] += 1
            await reader.post(f"Hello {number}, please talk slowly ({place})")

    async def streams(self) -> None:
        """Wait until some answer is on its way."""
        seen = sum(len(reader.texts) for reader in self.readers)
        await patiently(lambda: sum(len(reader.texts) for reader in self.readers) > seen + 2)

    async def all_answered(self) -> None:
        """Wait until every reader was shown the reply to every message."""
        await patiently(
            lambda: all(len(one.replies()) >= self.posted[one.session_id] for one in self.readers),
            lambda: [(len(one.replies()), self.posted[one.session_id]) for one in self.readers],
        )

    async def timed(self, what: str, number: int) -> None:
        """Ask and wait for all answers, and note how long that took."""
        began = time.monotonic()
        await self.ask_everywhere(number)
        await self.all_answered()
        self.seconds[what] = time.monotonic() - began


async def patiently(
    there: Callable[[], bool], told: Callable[[], object] = lambda: "it never came to be"
) -> None:
    late = time.monotonic() + PATIENCE_SECONDS
    while not there():
        assert time.monotonic() < late, told()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def reading(server: Server, session_id: UUID, cookie: str) -> AsyncIterator[Reader]:
    stream = Stream(
        server.socket_url, headers={"Cookie": f"sessionid={cookie}"}, origin=server.url, first_pause=0.1
    )
    reader = Reader(server, session_id, stream)
    async with stream:
        stream.subscribe(reader.channel, 0)
        listening = asyncio.create_task(reader.listen())
        try:
            yield reader
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening


def signed_in(user: User) -> str:
    """Return the cookie of a browser that the person signed in with."""
    store = SessionStore()
    store[SESSION_KEY] = str(user.pk)
    store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    store[HASH_SESSION_KEY] = user.get_session_auth_hash()
    store.save()
    return str(store.session_key)


@pytest.fixture
def two_servers(
    database: Database, own_redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Server, Server]]:
    monkeypatch.setenv("REDIS_URL", own_redis.url)
    with ExitStack() as ending:
        made = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            server = ending.enter_context(listening_server(database, tmp_path / name, scripted=True))
            made.append(server)
        made[1].script = made[0].script
        for server in made:
            server.start()
        yield made[0], made[1]


@pytest.fixture
async def hall(two_servers: tuple[Server, Server], own_redis: Redis) -> AsyncIterator[Hall]:
    script = two_servers[0].script
    assert script is not None
    made = Hall(two_servers, script, own_redis)
    user = await asyncio.to_thread(ensure_user, email="ann@example.com", display_name="Ann")
    workspace_id = await asyncio.to_thread(create_workspace, name="Hall", owner_id=user.id, actor="system")
    cookie = await asyncio.to_thread(signed_in, user)
    async with AsyncExitStack() as ending:
        for _ in range(SESSIONS):
            session_id = uuid4()
            await asyncio.to_thread(
                create_session,
                user_id=user.id,
                workspace_id=workspace_id,
                session_id=session_id,
                actor=f"user:{user.id}",
            )
            for server in two_servers:
                made.readers.append(await ending.enter_async_context(reading(server, session_id, cookie)))
        yield made


def counted(hall: Hall) -> tuple[int, int, int]:
    """Return how many events were lost and doubled at the readers, and how many texts are not the log's."""
    lost = doubled = other = 0
    for reader in hall.readers:
        recorded = [each.event for each in load(reader.session_id)]
        for event_type in (MessagePosted, ReplyPosted):
            told = Counter(each["eid"] for each in reader.events if each["type"] == event_type.type_name)
            doubled += sum(told.values()) - len(told)
            lost += sum(isinstance(event, event_type) for event in recorded) - len(told)
        doubled += len(reader.positions) - len(set(reader.positions))
        assert reader.positions == sorted(reader.positions)
        texts = reader.stream.texts(reader.channel)
        replies = [event for event in recorded if isinstance(event, ReplyPosted)]
        lost += hall.posted[reader.session_id] - len(replies)
        for reply in replies:
            shown = texts.get(str(reply.message_id), "")
            other += hashlib.sha256(shown.encode()).hexdigest() != reply.sha256
            other += reply.outcome != "answered"
    return lost, doubled, other


class TestTwoWebProcesses:
    async def test_lose_and_double_nothing_whatever_is_killed(
        self, hall: Hall, capsys: pytest.CaptureFixture[str]
    ) -> None:
        number = 0
        await hall.timed("at first", number)
        for _ in range(ROUNDS):
            for server in hall.servers:
                number += 1
                await hall.ask_everywhere(number)
                await hall.streams()
                await asyncio.sleep(random.uniform(0.0, 0.5))
                server.kill()
                await asyncio.to_thread(server.start)
                await hall.all_answered()
        number += 1
        await hall.ask_everywhere(number)
        await hall.streams()
        hall.redis.flush()
        await hall.all_answered()
        hall.redis.stop(signal.SIGKILL)
        await hall.timed("without Redis", number + 1)
        await asyncio.to_thread(hall.redis.start)
        await hall.timed("with Redis again", number + 2)
        lost, doubled, other = await asyncio.to_thread(counted, hall)
        messages = sum(hall.posted.values())
        with capsys.disabled():
            sys.stdout.write(
                f"\n{2 * ROUNDS} kills, {messages} messages, {len(hall.readers)} readers:"
                f" lost {lost}, doubled {doubled}, other texts {other};"
                f" seconds a round: { {what: round(took, 2) for what, took in hall.seconds.items()} },"
                f" median {median(hall.seconds.values()):.2f}\n"
            )
        assert (lost, doubled, other) == (0, 0, 0)
        for server in hall.servers:
            await asyncio.to_thread(server.stop)
            assert server.process is not None
            assert server.process.returncode == 0
