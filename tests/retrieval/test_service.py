import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cartrita.errors import NotFound
from cartrita.eventstore import Context, close_async, in_database_thread, new_id
from cartrita.tools import registry
from governance.decide import RequestFacts
from retrieval.document import RetrievalPerformed
from retrieval.ingest import run_ingest, wait_ready
from retrieval.tools import ReadDocument, SearchDocuments, read_document, search_documents
from tests.databases import Database
from tests.retrieval.conftest import Library

pytestmark = pytest.mark.flow

TEXT = "The Zephyrine apple ripens in October. " * 300


@pytest.fixture
async def shelf(database: Database) -> AsyncIterator[Library]:
    """A library whose ingest service runs."""
    service = asyncio.create_task(run_ingest())
    yield Library()
    service.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await service
    await close_async()


def call_of(library: Library) -> registry.ToolCall:
    session_id = new_id()
    facts = RequestFacts(
        workspace_id=library.workspace_id, session_id=session_id, at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    context = Context(workspace_id=library.workspace_id, session_id=session_id, key_id=new_id())
    return registry.ToolCall(facts=facts, context=context, decision_id=new_id(), idempotency_key="1")


class TestRunIngest:
    async def test_makes_documents_ready_as_they_arrive(self, shelf: Library) -> None:
        for text in (TEXT, "Another document about taxes."):
            document_id = await in_database_thread(shelf.receive, text)
            assert await wait_ready([document_id], timeout=60) == {document_id: "ready"}

    async def test_tells_what_is_not_ready_in_time(self, database: Database) -> None:
        document_id = await in_database_thread(Library().receive, TEXT)
        unknown = new_id()
        statuses = await wait_ready([document_id, unknown], timeout=0.1)
        assert statuses == {document_id: "received", unknown: "removed"}
        await close_async()


class TestTools:
    def test_are_registered_as_safe(self) -> None:
        for name in ("search_documents", "read_document"):
            assert registry.tool(name).safety == "safe"

    async def test_read_nothing_with_labels_that_are_left_out_or_were_not_decided_on(
        self, shelf: Library
    ) -> None:
        secret = await in_database_thread(lambda: shelf.receive(TEXT, labels=("secret", "pii")))
        await wait_ready([secret], timeout=60)
        call = call_of(shelf)
        for limits in ({"without_labels": frozenset({"pii"})}, {"within_labels": frozenset({"secret"})}):
            limited = replace(call, **limits)  # type: ignore[arg-type] # by the name of each
            with pytest.raises(NotFound):
                await read_document(ReadDocument(document_id=secret), limited)
            assert (await search_documents(SearchDocuments(query="apple"), limited)).passages == []
        allowed = replace(call, within_labels=frozenset({"secret", "pii", "untrusted"}))
        assert (await read_document(ReadDocument(document_id=secret), allowed)).start == 0
        assert (await search_documents(SearchDocuments(query="apple"), allowed)).passages

    async def test_search_and_read_what_the_session_may_see(self, shelf: Library) -> None:
        document_id = await in_database_thread(shelf.receive, TEXT)
        await wait_ready([document_id], timeout=60)
        call = call_of(shelf)
        found = await search_documents(
            SearchDocuments(query="When does the Zephyrine apple ripen?", k=2), call
        )
        assert [passage.document_id for passage in found.passages] == [document_id] * 2
        (recorded,) = call.record
        (event,) = recorded.events
        assert isinstance(event, RetrievalPerformed)
        assert event.documents_retrieved == (document_id,)
        first = await read_document(ReadDocument(document_id=document_id), call)
        assert (first.text, first.next_start) == (TEXT[:8000], 8000)
        rest = await read_document(ReadDocument(document_id=document_id, start=8000), call)
        assert (rest.text, rest.next_start) == (TEXT[8000:], None)
        with pytest.raises(NotFound):
            await read_document(ReadDocument(document_id=document_id), call_of(Library()))
