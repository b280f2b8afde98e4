"""Flows on real parts: a workspace with a person, a scripted model, and the services of a server process."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command

from cartrita.accounts.commands import create_workspace, ensure_user
from cartrita.eventstore import (
    RecordedEvent,
    Sequencer,
    close_async,
    follow,
    in_database_thread,
    new_id,
    run_following,
)
from cartrita.orchestrator.service import Services
from governance.queries.decisions import recount, redecide_all
from retrieval.commands import receive_document
from retrieval.ingest import wait_ready
from sessions_app import commands
from sessions_app.session import ReplyPosted
from tests.databases import Database
from tests.governance.backtests import back_tested_without_differences


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in a workspace, with what they do in these flows."""

    user_id: UUID
    workspace_id: UUID

    @property
    def actor(self) -> str:
        return f"user:{self.user_id}"

    async def opens_session(self) -> UUID:
        return await in_database_thread(
            commands.create_session, user_id=self.user_id, workspace_id=self.workspace_id, actor=self.actor
        )

    async def attaches(self, session_id: UUID, title: str, content: bytes, media_type: str = "") -> UUID:
        document_id = await in_database_thread(
            receive_document,
            workspace_id=self.workspace_id,
            owner_id=self.user_id,
            title=title,
            media_type=media_type,
            content=content,
            session_id=session_id,
            actor=self.actor,
        )
        assert await wait_ready([document_id], timeout=60) == {document_id: "ready"}
        return document_id

    async def says(
        self,
        session_id: UUID,
        text: str,
        attachments: Sequence[UUID] = (),
        *,
        message_id: UUID | None = None,
        agent: str | None = "assistant",
    ) -> UUID:
        """Post a message for an agent; with None whoever fits answers, by a plan of one or several tasks."""
        message_id = message_id or new_id()
        await in_database_thread(
            commands.post_message,
            session_id=session_id,
            message_id=message_id,
            content=text,
            attachments=attachments,
            metadata={"agent": agent} if agent else {},
            actor=self.actor,
        )
        return message_id

    async def asks(
        self,
        session_id: UUID,
        text: str,
        attachments: Sequence[UUID] = (),
        *,
        agent: str | None = "assistant",
    ) -> ReplyPosted:
        return await reply_to(session_id, await self.says(session_id, text, attachments, agent=agent))


async def reply_to(session_id: UUID, message_id: UUID) -> ReplyPosted:
    """Wait for the reply to a message."""
    async for batch in follow(after=0, session_id=session_id):
        for recorded in batch:
            if isinstance(recorded.event, ReplyPosted) and recorded.event.parent == message_id:
                return recorded.event
    raise AssertionError("the log never ends")


async def until(session_id: UUID, seen: Callable[[RecordedEvent], bool]) -> RecordedEvent:
    """Wait for an event of a session."""
    async for batch in follow(after=0, session_id=session_id):
        for recorded in batch:
            if seen(recorded):
                return recorded
    raise AssertionError("the log never ends")


@pytest.fixture
def person(database: Database) -> Person:
    user = ensure_user(email="ann@example.com", display_name="Ann")
    workspace_id = create_workspace(name="Flows", owner_id=user.id, actor="system")
    return Person(user.id, workspace_id)


@pytest.fixture
def stranger(database: Database) -> Person:
    """Return somebody in another workspace."""
    user = ensure_user(email="bob@example.com", display_name="Bob")
    return Person(user.id, create_workspace(name="Elsewhere", owner_id=user.id, actor="system"))


@dataclass(slots=True)
class ScriptedModel:
    """The script of the model that answers in these flows, and what it produced."""

    path: Path
    log: Path

    def answers(self, *answers: dict[str, Any]) -> None:
        self.path.write_text(json.dumps({"log": str(self.log), "answers": answers}))

    def productions(self, event: str = "finished") -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line["text"] for line in map(json.loads, lines) if line["event"] == event]


@pytest.fixture
def model(tmp_path: Path, settings: Any) -> ScriptedModel:
    script = ScriptedModel(tmp_path / "script.json", tmp_path / "productions.jsonl")
    script.answers({"text": "The scripted answer."})
    settings.SCRIPTED_MODEL = str(script.path)
    return script


@asynccontextmanager
async def running() -> AsyncIterator[None]:
    """Run the services of a server process in this loop."""
    services = Services()
    await services.start()
    try:
        yield
    finally:
        await services.stop()
        await close_async()


async def _order_the_rest() -> None:
    await Sequencer().order()
    await close_async()


@pytest.fixture
def consistent(database: Database) -> Iterator[None]:
    """After the flow: read models equal their rebuild, balances their decisions, and the log verifies.

    Each decision comes out as recorded when it is made again under its own policy, one by one and in a
    back-test of what is in force.
    """
    yield
    # What was committed in the last moments before the services stopped has no position yet.
    asyncio.run(_order_the_rest())
    run_following()
    with database.as_owner():
        call_command("rebuild_projections", check=True)
    call_command("verify_log")
    assert recount() == []
    _, differences = redecide_all()
    assert differences == []
    back_tested_without_differences()
