"""kill -9 of the server in the middle of an answer: the browser and a program end with the same text."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.core.management import call_command
from playwright.async_api import Page, expect
from psycopg import sql

from cartrita.eventstore import derived_id, load, run_following
from cartrita.llm.events import ModelAnswered
from cartrita.streaming.client import Stream
from sessions_app.commands import message_event_id
from sessions_app.models import Message
from sessions_app.session import MessagePosted, ReplyPosted
from tests.browsers import Visit, Visitor, answered, asks
from tests.servers import Server

pytestmark = pytest.mark.chaos

TEXT = " ".join(f"wörd{number}" for number in range(70))


@dataclass
class Program:
    """The Python client, and all that it was shown."""

    stream: Stream
    channel: str
    positions: list[int] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        async for update in self.stream:
            if update["do"] == "event":
                self.positions.append(update["event"]["pos"])
                self.events.append(update["event"])
            elif update["do"] == "text":
                self.texts.append(update)
            self.changed.set()

    async def reply(self) -> dict[str, Any]:
        """Wait for the event of the reply and return it."""
        while True:
            for event in self.events:
                if event["type"] == ReplyPosted.type_name:
                    return event
            self.changed.clear()
            await self.changed.wait()

    def shows_text_that_only_grows(self) -> bool:
        """Tell whether the text never lost anything, except where a new attempt began."""
        return all(
            later["att"] > earlier["att"] or later["text"].startswith(earlier["text"])
            for earlier, later in zip(self.texts, self.texts[1:], strict=False)
        )


@asynccontextmanager
async def following(visitor: Visitor, session_id: UUID) -> AsyncIterator[Program]:
    """Follow a session from its beginning with the Python client, signed in as the visitor."""
    cookies = "; ".join(f"{each['name']}={each['value']}" for each in await visitor.context.cookies())
    server = visitor.server
    stream = Stream(server.socket_url, headers={"Cookie": cookies}, origin=server.url, first_pause=0.1)
    program = Program(stream, f"session:{session_id}")
    async with stream:
        stream.subscribe(program.channel, 0)
        listening = asyncio.create_task(program.listen())
        yield program
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening


async def kill_and_restart(server: Server) -> None:
    server.kill()
    await asyncio.to_thread(server.start)


async def ends_the_same(page: Page, program: Program, session_id: UUID) -> ReplyPosted:
    """Check that log, browser and program hold one and the same reply, and nothing twice."""
    shown = await program.reply()
    await answered(page)
    history = [recorded.event for recorded in await asyncio.to_thread(load, session_id)]
    (reply,) = [event for event in history if isinstance(event, ReplyPosted)]
    assert hashlib.sha256(reply.content.encode()).hexdigest() == reply.sha256
    # The program.
    text = program.stream.texts(program.channel)[str(reply.message_id)]
    assert hashlib.sha256(text.encode()).hexdigest() == reply.sha256
    assert shown["d"]["sha256"] == reply.sha256
    assert program.positions == sorted(set(program.positions))
    kinds = [event["type"] for event in program.events]
    assert kinds.count(ReplyPosted.type_name) == 1
    assert kinds.count(MessagePosted.type_name) == 1
    assert program.shows_text_that_only_grows()
    # The browser.
    await expect(page.locator(".message")).to_have_count(2)
    on_screen = await page.locator(".message.assistant .text").inner_text()
    assert hashlib.sha256(on_screen.strip().encode()).hexdigest() == reply.sha256
    return reply


async def answered_by_model(session_id: UUID, message_id: UUID) -> ModelAnswered:
    """Wait until the model's answer is recorded."""
    turn_id = message_event_id(session_id, message_id)
    run_id = derived_id(derived_id(derived_id(turn_id, "plan"), "task:1"), "attempt:1")
    while True:
        for recorded in await asyncio.to_thread(load, run_id):
            if isinstance(recorded.event, ModelAnswered):
                return recorded.event
        await asyncio.sleep(0.02)


def check_log_and_read_models(server: Server) -> None:
    """Check that the log verifies, and that a rebuild leaves every read model as it is."""
    call_command("verify_log")
    run_following()
    with server.database.as_owner():
        call_command("rebuild_projections", check=True)


@asynccontextmanager
async def no_message_can_be_added(server: Server) -> AsyncIterator[None]:
    """Hold up whoever adds a message to a session."""
    connection = await psycopg.AsyncConnection.connect(server.database.superuser_url)
    async with connection:
        table = sql.Identifier(Message._meta.db_table)
        await connection.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(table))
        yield


class TestKillOfTheServer:
    async def test_in_mid_answer_leaves_one_text(self, server: Server, visit: Visit) -> None:
        assert server.script is not None
        server.script.answers({"text": TEXT, "seconds_per_token": 0.05})
        visitor = await visit(server)
        page, session_id = await visitor.opens_session()
        async with following(visitor, session_id) as program:
            await asks(page, "Hello, please talk slowly")
            await expect(page.locator(".message.assistant .text")).to_contain_text("wörd9")
            await kill_and_restart(server)
            reply = await ends_the_same(page, program, session_id)
        assert reply.content == TEXT
        # It was broken off once, and produced whole once.
        assert server.script.productions("started") == [TEXT, TEXT]
        assert server.script.productions("finished") == [TEXT]
        assert {update["att"] for update in program.texts} == {1, 2}
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(check_log_and_read_models, server)

    async def test_after_the_models_answer_does_not_ask_it_again(self, server: Server, visit: Visit) -> None:
        assert server.script is not None
        server.script.answers({"text": TEXT, "seconds_per_token": 0.02})
        visitor = await visit(server)
        page, session_id = await visitor.opens_session()
        async with following(visitor, session_id) as program:
            await asks(page, "Hello, please talk slowly")
            await expect(page.locator(".message.assistant .text")).to_contain_text("wörd3")
            message_id = UUID(await page.locator(".message.user").get_attribute("data-mid"))
            async with no_message_can_be_added(server):
                recorded = await answered_by_model(session_id, message_id)
                server.kill()
            history = await asyncio.to_thread(load, session_id)
            assert not [each for each in history if isinstance(each.event, ReplyPosted)]
            await asyncio.to_thread(server.start)
            reply = await ends_the_same(page, program, session_id)
        assert reply.content == recorded.text == TEXT
        assert server.script.productions("started") == [TEXT]
        assert server.script.productions("finished") == [TEXT]

    async def test_loses_no_message_that_is_sent_meanwhile(self, server: Server, visit: Visit) -> None:
        visitor = await visit(server)
        page, session_id = await visitor.opens_session()
        async with following(visitor, session_id) as program:
            server.kill()
            await expect(page.locator("#connection")).to_have_attribute("data-status", "waiting")
            await asks(page, "Are you there?")
            await expect(page.locator(".message.user")).to_contain_class("waiting")
            await asyncio.to_thread(server.start)
            reply = await ends_the_same(page, program, session_id)
            await expect(page.locator(".message.user")).not_to_contain_class("waiting")
            await expect(page.locator("#connection")).to_have_attribute("data-status", "connected")
        assert reply.content == "The scripted answer."
