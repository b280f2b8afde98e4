"""What the channel of a session shows of the apps below the orchestrator."""

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from cartrita.eventstore import Event
from cartrita.orchestrator.consumers import INTERNAL_EVENTS
from retrieval.document import (
    DocumentChunked,
    DocumentEmbedded,
    DocumentFailed,
    DocumentReceived,
    DocumentRemoved,
    RetrievalPerformed,
    ScoredPassage,
)
from sessions_app.channel import describe

ID = UUID(int=7)


def shown(event: Event) -> dict[str, Any] | None:
    recorded: Any = SimpleNamespace(event=event, type_name=event.type_name, stream_id=ID, sealed={})
    return describe(recorded)


class TestDescribe:
    @pytest.mark.parametrize(
        ("event", "values"),
        [
            (
                DocumentReceived(
                    title="Notes",
                    media_type="text/plain",
                    size=5,
                    blob="b" * 64,
                    fingerprint="f" * 64,
                    collection_id=ID,
                    owner_id=ID,
                ),
                {"title": "Notes", "media_type": "text/plain", "size": 5},
            ),
            (
                DocumentChunked(parser="p", chunker="c", text_blob="t", characters=9, pages=2, chunks=1),
                {"characters": 9, "pages": 2, "chunks": 1},
            ),
            (DocumentEmbedded(model="m", dimension=384, chunks=1), {}),
            (
                DocumentFailed(stage="parse", code="damaged", message="x" * 300),
                {"stage": "parse", "code": "damaged", "message": "x" * 300},
            ),
            (DocumentRemoved(), {}),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_names_the_document_of_each_step(self, event: Event, values: dict[str, Any]) -> None:
        assert shown(event) == {"document_id": str(ID), **values}

    def test_shows_how_much_a_search_found_but_not_what(self) -> None:
        passage = ScoredPassage(chunk_id=ID, document_id=ID, lexical=1, dense=1, score=1)
        event = RetrievalPerformed(
            retrieval_id=ID,
            query_text="a secret",
            query_embedding="AAAA",
            k_initial=10,
            retrieval_latency_ms=3.5,
            timings_ms={},
            context_tokens_before=1,
            context_tokens_after=1,
            documents_retrieved=(ID,),
            pipeline="convex",
            passages=(passage, passage),
        )
        assert shown(event) == {"retrieval_id": str(ID), "documents": 1, "passages": 2, "latency_ms": 3.5}

    @pytest.mark.parametrize("event_class", INTERNAL_EVENTS)
    def test_leaves_out_what_is_for_auditors(self, event_class: type[Event]) -> None:
        recorded: Any = SimpleNamespace(event=None, type_name=event_class.type_name, stream_id=ID, sealed={})
        assert describe(recorded) is None
