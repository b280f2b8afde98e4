"""A workspace with documents, and the order that the sequencer gives to events."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from django.core.management import call_command

from cartrita.eventstore import Sequencer, new_id, run_following
from retrieval import ingest
from retrieval.commands import receive_document
from retrieval.search import Retrieval, search
from tests.databases import Database


def order() -> None:
    """Order all events and bring the following projections up to them."""
    asyncio.run(Sequencer().order())
    run_following()


@dataclass(frozen=True, slots=True)
class Library:
    """A workspace and its reader."""

    workspace_id: UUID = field(default_factory=new_id)
    owner_id: UUID = field(default_factory=new_id)
    actor: str = "user:test"

    def receive(
        self,
        text: str | bytes,
        *,
        title: str = "Notes",
        media_type: str = "",
        session_id: UUID | None = None,
        labels: tuple[str, ...] = (),
    ) -> UUID:
        return receive_document(
            workspace_id=self.workspace_id,
            owner_id=self.owner_id,
            title=title,
            media_type=media_type,
            content=text.encode() if isinstance(text, str) else text,
            session_id=session_id,
            labels=labels,
            actor=self.actor,
        )

    def shelve(self, text: str | bytes, *, title: str = "Notes", session_id: UUID | None = None) -> UUID:
        """Receive a document and wait until it is found."""
        document_id = self.receive(text, title=title, session_id=session_id)
        ingest.process_pending()
        return document_id

    def search(self, query: str, *, session_id: UUID | None = None, k: int = 10) -> Retrieval:
        return search(query, workspace_id=self.workspace_id, session_id=session_id, k=k)


@pytest.fixture
def check_read_models(database: Database) -> Callable[[], None]:
    def check() -> None:
        order()
        with database.as_owner():
            call_command("rebuild_projections", check=True)

    return check


@pytest.fixture
def library(database: Database, check_read_models: Callable[[], None]) -> Iterator[Library]:
    """An empty library, whose read models equal their rebuild when the test is over."""
    yield Library()
    check_read_models()
