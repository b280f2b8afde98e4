"""Read models of collections, documents and searches."""

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

from django.db.models import QuerySet

from cartrita.eventstore import RecordedEvent, following, inline
from cartrita.eventstore.erasure import KeyErased, SubjectErased
from cartrita.eventstore.models import DataKey
from governance.detectors import labels_of
from retrieval.document import (
    CollectionCreated,
    DocumentChunked,
    DocumentEmbedded,
    DocumentExamined,
    DocumentFailed,
    DocumentHeld,
    DocumentReceived,
    DocumentReleased,
    DocumentRemoved,
    RetrievalPerformed,
)
from retrieval.models import Collection, Document, RetrievalMetric

if TYPE_CHECKING:
    import numpy as np


@inline(CollectionCreated, tables=[Collection])
def project_collections(recorded: RecordedEvent) -> None:
    event = recorded.event
    assert isinstance(event, CollectionCreated)  # noqa: S101 - narrows the type for mypy
    Collection.objects.create(
        id=recorded.stream_id,
        workspace_id=recorded.workspace_id,
        session_id=recorded.session_id,
        name=event.name,
        language=event.language,
        created_at=recorded.recorded_at,
    )


@inline(
    DocumentReceived,
    DocumentHeld,
    DocumentReleased,
    DocumentChunked,
    DocumentEmbedded,
    DocumentExamined,
    DocumentFailed,
    DocumentRemoved,
    tables=[Document],
)
def project_documents(recorded: RecordedEvent) -> None:
    document = Document.objects.filter(id=recorded.stream_id)
    at = recorded.recorded_at
    match recorded.event:
        case DocumentReceived() as event:
            assert recorded.key_id is not None  # noqa: S101 - the title is sealed
            Document.objects.create(
                id=recorded.stream_id,
                workspace_id=recorded.workspace_id,
                session_id=recorded.session_id,
                collection_id=event.collection_id,
                owner_id=event.owner_id,
                key_id=recorded.key_id,
                title=recorded.sealed["title"],
                media_type=event.media_type,
                size=event.size,
                blob=event.blob,
                fingerprint=event.fingerprint,
                labels=list(event.labels),
                status="received",
                created_at=at,
                updated_at=at,
            )
        case DocumentHeld() as event:
            document.update(
                status="held", approval_id=event.approval_id, retry_after=event.retry_after, updated_at=at
            )
        case DocumentReleased():
            document.update(status="received", retry_after=None, updated_at=at)
        case DocumentChunked() as event:
            document.update(
                status="chunked",
                text_blob=event.text_blob,
                parser=event.parser,
                chunker=event.chunker,
                characters=event.characters,
                pages=event.pages,
                chunks=event.chunks,
                updated_at=at,
                **_labelled(document, event),
            )
        case DocumentExamined() as event:
            document.update(updated_at=at, **_labelled(document, event))
        case DocumentEmbedded():
            document.update(status="ready", updated_at=at)
        case DocumentFailed() as event:
            document.update(
                status="failed", error_code=event.code, error_message=event.message, updated_at=at
            )
        case DocumentRemoved():
            document.update(status="removed", updated_at=at)


def _labelled(
    document: QuerySet[Document], looked_at: DocumentChunked | DocumentExamined
) -> dict[str, list[str]]:
    """Return the column of labels with those of what was found in the text."""
    found = labels_of(looked_at.findings)
    if not found:
        return {}
    return {"labels": sorted({*document.get().labels, *found})}


@following("retrieval_metrics", RetrievalPerformed, KeyErased, SubjectErased, tables=[RetrievalMetric])
def project_metrics(batch: Sequence[RecordedEvent]) -> None:
    for recorded in batch:
        match recorded.event:
            case RetrievalPerformed() as event:
                _metric(recorded, event).save(force_insert=True)
            case KeyErased() as event:
                # Text can be guessed from a vector, so it goes with the query.
                RetrievalMetric.objects.filter(key_id=event.key_id).update(query_embedding=None)
            case SubjectErased() as event:
                keys = DataKey.objects.filter(subject_id=event.subject_id).values("key_id")
                RetrievalMetric.objects.filter(key_id__in=keys).update(query_embedding=None)


def _metric(recorded: RecordedEvent, event: RetrievalPerformed) -> RetrievalMetric:
    return RetrievalMetric(
        id=recorded.event_id,
        workspace_id=recorded.workspace_id,
        session_id=recorded.session_id,
        key_id=recorded.key_id,
        query_text=recorded.sealed["query_text"],
        query_embedding=decode_vector(event.query_embedding),
        k_initial=event.k_initial,
        k_rerank=event.k_rerank,
        retrieval_latency_ms=event.retrieval_latency_ms,
        rerank_latency_ms=event.rerank_latency_ms,
        usefulness_score=event.usefulness_score,
        context_tokens_before=event.context_tokens_before,
        context_tokens_after=event.context_tokens_after,
        compression_ratio=event.compression_ratio,
        documents_retrieved=list(event.documents_retrieved),
        documents_used=list(event.documents_used),
        pipeline=event.pipeline,
        timings_ms=event.timings_ms,
        passages=[passage.model_dump(mode="json") for passage in event.passages],
        created_at=recorded.recorded_at,
    )


def decode_vector(text: str) -> list[float] | None:
    """Return the vector behind base64 of float16 values; None for an empty (erased) text."""
    if not text:
        return None
    import numpy as np

    return [float(value) for value in np.frombuffer(base64.b64decode(text), dtype="<f2")]


def encode_vector(vector: "Sequence[float] | np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> str:
    """Return base64 of the vector as little-endian float16 values."""
    import numpy as np

    return base64.b64encode(np.asarray(vector, dtype="<f2").tobytes()).decode()
