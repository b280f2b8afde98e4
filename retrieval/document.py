"""Documents and collections: their events, their state, their decisions. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

from cartrita.errors import BadInput, Conflict, NotFound
from cartrita.eventstore.types import Event, Sealed

MAX_TITLE = 500
MAX_LABELS = 32
MAX_LABEL = 64


class DocumentNotFound(NotFound):
    """No document with that id exists in the caller's scope, or it was removed."""

    code = "document_not_found"


class DocumentNotOpen(Conflict):
    """The document was removed, so nothing further can happen to it."""

    code = "document_not_open"


class CollectionCreated(Event):
    """A place for documents was made: a workspace's own, a session's attachments, or a named one.

    `language` is the name of the PostgreSQL text search configuration of its words.
    """

    type_name: ClassVar[str] = "retrieval.CollectionCreated"

    name: str
    language: str


class DocumentReceived(Event):
    """A file or text arrived and is kept; nothing has been read of it yet.

    `blob` addresses its sealed bytes; `fingerprint` is a keyed hash that finds the same content again without
    telling it; `size` is in bytes; `labels` say who may be shown it; `decision_id` let it in, or holds it
    (DocumentHeld).
    """

    type_name: ClassVar[str] = "retrieval.DocumentReceived"

    title: Sealed[str]
    media_type: str
    size: int
    blob: str
    fingerprint: str
    collection_id: UUID
    owner_id: UUID
    labels: tuple[str, ...] = ()
    decision_id: UUID | None = None

    def named_blobs(self) -> Iterable[str]:
        """Return the blob of the file."""
        return (self.blob,)


class DocumentHeld(Event):
    """A rule keeps the document from being read and found until people have approved it.

    `retry_after` is set where they have, and it is too early: it is decided again from then on.
    """

    type_name: ClassVar[str] = "retrieval.DocumentHeld"

    decision_id: UUID
    approval_id: UUID
    rule: str
    reason: str
    retry_after: datetime | None = None


class DocumentReleased(Event):
    """A document that was held may be read and found."""

    type_name: ClassVar[str] = "retrieval.DocumentReleased"

    decision_id: UUID


class DocumentChunked(Event):
    """The document was read and divided; from here on it is found by its words.

    `text_blob` addresses the parsed text (sealed), which the offsets of passages count in. `findings` are the
    kinds of what detectors found in title and text: the document carries their labels from here on.
    `detectors` says which looked, empty where none did and in documents of before.
    """

    type_name: ClassVar[str] = "retrieval.DocumentChunked"

    parser: str
    chunker: str
    text_blob: str
    characters: int
    pages: int | None = None
    chunks: int
    findings: tuple[str, ...] = ()
    detectors: str = ""

    def named_blobs(self) -> Iterable[str]:
        """Return the blob of the parsed text."""
        return (self.text_blob,)


class DocumentExamined(Event):
    """Detectors looked at a document that was read before, or by others; it carries the labels of `findings`
    from here on, besides those that it had.
    """

    type_name: ClassVar[str] = "retrieval.DocumentExamined"

    findings: tuple[str, ...] = ()
    detectors: str


class DocumentEmbedded(Event):
    """Every chunk has a vector; from here on the document is found by its meaning too.

    Recorded again when another model has made all of the vectors anew.
    """

    type_name: ClassVar[str] = "retrieval.DocumentEmbedded"

    model: str
    dimension: int
    chunks: int


class DocumentFailed(Event):
    """The document could not be read, or was held and is not let in (stage policy); its bytes are kept.

    `message` never quotes the document.
    """

    type_name: ClassVar[str] = "retrieval.DocumentFailed"

    stage: Literal["parse", "chunk", "embed", "policy"]
    code: str
    message: str


class DocumentRemoved(Event):
    """The document is never found or shown again; `erased` says that its key was destroyed with it."""

    type_name: ClassVar[str] = "retrieval.DocumentRemoved"

    erased: bool = False


class ScoredPassage(Event):
    """One passage of a retrieval with its score at every stage (None: that stage did not see it)."""

    chunk_id: UUID
    document_id: UUID
    lexical: float | None
    dense: float | None
    score: float


class RetrievalPerformed(Event):
    """A search was made for somebody; this is what it cost and what it gave.

    Latencies are milliseconds, context sizes are tokens of the passages found and of those passed on,
    `usefulness_score` is 0 to 1 where anything is known of it. `query_embedding` is base64 of little-endian
    float16 values; it is sealed because text can be guessed from a vector.
    """

    type_name: ClassVar[str] = "retrieval.RetrievalPerformed"

    retrieval_id: UUID
    query_text: Sealed[str]
    query_embedding: Sealed[str] = ""
    k_initial: int
    k_rerank: int | None = None
    retrieval_latency_ms: float
    rerank_latency_ms: float | None = None
    timings_ms: dict[str, float]
    usefulness_score: float | None = None
    context_tokens_before: int
    context_tokens_after: int
    compression_ratio: float | None = None
    documents_retrieved: tuple[UUID, ...]
    documents_used: tuple[UUID, ...] = ()
    pipeline: str
    passages: tuple[ScoredPassage, ...]
    labels: tuple[str, ...] = ()


Status = Literal["absent", "held", "received", "chunked", "ready", "failed", "removed"]


@dataclass(frozen=True, slots=True)
class Document:
    """A document's state, folded from its events."""

    status: Status = "absent"
    blob: str = ""
    text_blob: str = ""
    chunks: int = 0
    model: str = ""
    detectors: str = ""
    version: int = 0


def evolve(document: Document, event: Event) -> Document:
    """Return the state after one event of the document's stream."""
    after = replace(document, version=document.version + 1)
    match event:
        case DocumentReceived():
            return replace(after, status="received", blob=event.blob)
        case DocumentHeld():
            return replace(after, status="held")
        case DocumentReleased():
            return replace(after, status="received")
        case DocumentChunked():
            return replace(
                after,
                status="chunked",
                text_blob=event.text_blob,
                chunks=event.chunks,
                detectors=event.detectors,
            )
        case DocumentExamined():
            return replace(after, detectors=event.detectors)
        case DocumentEmbedded():
            return replace(after, status="ready", model=event.model)
        case DocumentFailed():
            return replace(after, status="failed")
        case DocumentRemoved():
            return replace(after, status="removed")
    return after


def fold(events: Iterable[Event]) -> Document:
    """Return the state after all events of the document's stream."""
    document = Document()
    for event in events:
        document = evolve(document, event)
    return document


def is_new(document: Document) -> bool:
    """Tell whether a document may still be received. Raises DocumentNotOpen for a removed one."""
    if document.status == "removed":
        raise DocumentNotOpen("This document was removed; send it again under a new id.", field="document_id")
    return document.status == "absent"


def receive(document: Document, received: DocumentReceived) -> Sequence[Event]:
    """Accept a new document; nothing when it is there already. Raises BadInput, DocumentNotOpen."""
    if not is_new(document):
        return []
    check_title(received.title)
    check_labels(received.labels)
    return [received]


def hold(document: Document, held: DocumentHeld) -> Sequence[Event]:
    """Keep a document that nothing has been read of from being read. Raises DocumentNotOpen."""
    if document.status not in ("received", "held"):
        raise DocumentNotOpen("The document was read already, or refused.", field="document_id")
    return [held]


def release(document: Document, released: DocumentReleased) -> Sequence[Event]:
    """Let a held document be read; nothing for one that is not held. Raises DocumentNotOpen."""
    _require_open(document)
    return [released] if document.status == "held" else []


def divide(document: Document, chunked: DocumentChunked) -> Sequence[Event]:
    """Note that the document was read and divided; nothing when that is known. Raises DocumentNotOpen."""
    _require_open(document)
    if document.status == "held":
        raise DocumentNotOpen("The document is held until it is approved.", field="document_id")
    if document.status in ("chunked", "ready"):
        return []
    return [chunked]


def examine(document: Document, examined: DocumentExamined) -> Sequence[Event]:
    """Note what detectors find in a document that was read; nothing where the same ones looked.

    Raises DocumentNotOpen.
    """
    _require_open(document)
    if document.status not in ("chunked", "ready") or document.detectors == examined.detectors:
        return []
    return [examined]


def embed(document: Document, embedded: DocumentEmbedded) -> Sequence[Event]:
    """Note that all chunks have vectors; nothing when that is known. Raises DocumentNotOpen."""
    _require_open(document)
    anew = document.status == "ready" and document.model != embedded.model
    return [embedded] if document.status == "chunked" or anew else []


def fail(document: Document, failed: DocumentFailed) -> Sequence[Event]:
    """Note why the document cannot be read; nothing when it failed before. Raises DocumentNotOpen."""
    _require_open(document)
    return [] if document.status == "failed" else [failed]


def remove(document: Document, *, erased: bool = False) -> Sequence[Event]:
    """Take the document out of every search; nothing when that was done before. Raises DocumentNotFound.

    A removed document may still be erased, which is a second fact.
    """
    if document.status == "absent":
        raise DocumentNotFound("There is no such document.", field="document_id")
    if document.status == "removed" and not erased:
        return []
    return [DocumentRemoved(erased=erased)]


def check_title(title: str) -> None:
    """Raise BadInput for a title that is empty, too long, or holds control characters or half characters."""
    if not title.strip():
        raise BadInput("The title is empty: name the document.", field="title")
    if len(title) > MAX_TITLE:
        raise BadInput(f"The title has {len(title)} characters; at most {MAX_TITLE} are kept.", field="title")
    if any(character < " " or "\ud800" <= character <= "\udfff" for character in title):
        raise BadInput("The title holds control or broken characters: remove them.", field="title")


def check_labels(labels: Sequence[str]) -> None:
    """Raise BadInput for labels that are too many, too long or not plain words."""
    if len(labels) > MAX_LABELS:
        raise BadInput(f"A document takes at most {MAX_LABELS} labels.", field="labels")
    for label in labels:
        if not label or len(label) > MAX_LABEL or not label.replace("-", "").replace("_", "").isalnum():
            raise BadInput(
                f"A label is 1 to {MAX_LABEL} letters, digits, hyphens or underscores.", field="labels"
            )


def _require_open(document: Document) -> None:
    if document.status in ("absent", "removed"):
        raise DocumentNotOpen("The document was removed or never received.", field="document_id")
