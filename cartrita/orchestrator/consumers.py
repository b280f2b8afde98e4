"""What the channel of a session shows of the work on its messages: events of the apps below, put briefly."""

from typing import Any

from cartrita.eventstore import Event, RecordedEvent
from governance.decision import ActSettled, DecisionMade
from retrieval.document import (
    CollectionCreated,
    DocumentChunked,
    DocumentEmbedded,
    DocumentFailed,
    DocumentReceived,
    DocumentRemoved,
    RetrievalPerformed,
)
from sessions_app.channel import register_shown

DOCUMENT_EVENTS: tuple[type[Event], ...] = (
    DocumentReceived,
    DocumentChunked,
    DocumentEmbedded,
    DocumentFailed,
    DocumentRemoved,
)
# Each act's ActDecided and outcome say what people need of these; the rest is for auditors.
INTERNAL_EVENTS: tuple[type[Event], ...] = (ActSettled, CollectionCreated, DecisionMade)


def document_event(recorded: RecordedEvent) -> dict[str, Any]:
    """Describe a step of a document's way; its id is the stream's."""
    shown: dict[str, Any] = {"document_id": str(recorded.stream_id)}
    match recorded.event:
        case DocumentReceived(title=title, media_type=media_type, size=size):
            return {**shown, "title": title, "media_type": media_type, "size": size}
        case DocumentChunked(characters=characters, pages=pages, chunks=chunks):
            return {**shown, "characters": characters, "pages": pages, "chunks": chunks}
        case DocumentFailed(stage=stage, code=code, message=message):
            return {**shown, "stage": stage, "code": code, "message": message}
        case _:
            return shown


def retrieval_event(recorded: RecordedEvent) -> dict[str, Any]:
    """Describe a search by what it found and its latency in milliseconds, without its words and vectors."""
    event = recorded.event
    if not isinstance(event, RetrievalPerformed):
        raise TypeError(f"{recorded.type_name} is no search")
    return {
        "retrieval_id": str(event.retrieval_id),
        "documents": len(event.documents_retrieved),
        "passages": len(event.passages),
        "latency_ms": event.retrieval_latency_ms,
    }


for event_class in DOCUMENT_EVENTS:
    register_shown(event_class.type_name, document_event)
for event_class in INTERNAL_EVENTS:
    register_shown(event_class.type_name, lambda _: None)
register_shown(RetrievalPerformed.type_name, retrieval_event)
