"""What may be asked about documents."""

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from django.db.models import Count, Q, QuerySet

from cartrita.errors import BadInput, NotFound
from cartrita.eventstore import unseal, unseal_or_empty
from cartrita.eventstore.blobs import get_blob
from cartrita.http.pagination import Page, page_of
from governance.candidates import Candidates
from retrieval import models
from retrieval.document import DocumentNotFound

MAX_PASSAGE = 20_000


class RetrievalNotFound(NotFound):
    """There is no such search, or it is another person's."""

    code: ClassVar[str] = "retrieval_not_found"


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentDetail:
    """A document as its readers see it. `status` is held, received, chunked, ready, failed or removed.

    `approval_id` is what a held document waits for, or waited for. `embedded` counts the chunks that have
    vectors; `characters`, `pages` and `chunks` are None until it was read.
    """

    id: UUID
    workspace_id: UUID
    session_id: UUID | None
    collection_id: UUID
    owner_id: UUID
    title: str
    media_type: str
    size: int
    labels: tuple[str, ...]
    status: str
    approval_id: UUID | None
    characters: int | None
    pages: int | None
    chunks: int | None
    embedded: int
    error_code: str
    error_message: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A part of a document's parsed text, with what stands before and after it and its page (from 1, PDF
    only).
    """

    document_id: UUID
    title: str
    start: int
    end: int
    text: str
    before: str
    after: str
    page: int | None


def document(
    document_id: UUID, *, workspace_id: UUID | None = None, session_id: UUID | None = None
) -> DocumentDetail:
    """Return a document. With `workspace_id`, only one of that workspace, and of no other session than
    `session_id`.

    Raises DocumentNotFound, also for a removed one.
    """
    return _detail(_row(document_id, workspace_id=workspace_id, session_id=session_id))


def documents_in_scope(
    *, workspace_id: UUID, session_id: UUID | None = None, limit: int = 1000
) -> list[DocumentDetail]:
    """Return the workspace's documents and the session's attachments, newest first."""
    rows = in_scope(workspace_id=workspace_id, session_id=session_id).order_by("-created_at", "-id")[:limit]
    return [_detail(row) for row in rows]


def page_in_scope(
    *,
    workspace_id: UUID,
    session_id: UUID | None = None,
    status: str = "",
    label: str = "",
    cursor: str | None = None,
    limit: int = 50,
) -> Page:
    """Return a page of DocumentDetail of what this workspace and session may see, newest first.

    `status` and `label` narrow it.
    """
    rows = in_scope(workspace_id=workspace_id, session_id=session_id)
    if status:
        rows = rows.filter(status=status)
    if label:
        rows = rows.filter(labels__contains=[label])
    page = page_of(rows, order=("-created_at", "-id"), cursor=cursor, limit=limit)
    return Page([_detail(row) for row in page.items], page.next_cursor)


def in_scope(*, workspace_id: UUID, session_id: UUID | None = None) -> QuerySet[models.Document]:
    """Return the rows that this workspace and session may see; removed ones are not among them."""
    reach = Q(session_id=None) | Q(session_id=session_id) if session_id else Q(session_id=None)
    return models.Document.objects.filter(reach, workspace_id=workspace_id).exclude(status="removed")


def metrics_page(
    *, workspace_id: UUID, session_id: UUID | None = None, cursor: str | None = None, limit: int = 50
) -> Page:
    """Return a page of RetrievalMetric rows of a workspace, or of one session in it, newest first."""
    rows = models.RetrievalMetric.objects.filter(workspace_id=workspace_id).defer("query_embedding")
    if session_id is not None:
        rows = rows.filter(session_id=session_id)
    return page_of(rows, order=("-created_at", "-id"), cursor=cursor, limit=limit)


def metric(retrieval_id: UUID, *, workspace_id: UUID) -> models.RetrievalMetric:
    """Return what a search cost and gave. Raises RetrievalNotFound."""
    rows = models.RetrievalMetric.objects.filter(workspace_id=workspace_id).defer("query_embedding")
    row = rows.filter(id=retrieval_id).first()
    if row is None:
        raise RetrievalNotFound("There is no such search.", field="retrieval_id")
    return row


def candidates(
    *, workspace_id: UUID, session_id: UUID | None = None, document_ids: Sequence[UUID] | None = None
) -> Candidates:
    """Return the documents that a search here may find in, now or in a moment; `document_ids` narrow them."""
    rows = in_scope(workspace_id=workspace_id, session_id=session_id).filter(
        status__in=["received", "chunked", "ready"]
    )
    if document_ids is not None:
        rows = rows.filter(id__in=document_ids)
    by_labels: dict[frozenset[str], int] = {}
    for labels, count in rows.values_list("labels").annotate(count=Count("id")).order_by():
        by_labels[frozenset(labels)] = by_labels.get(frozenset(labels), 0) + count
    return Candidates(by_labels)


def parsed_text(
    document_id: UUID, *, workspace_id: UUID | None = None, session_id: UUID | None = None
) -> str:
    """Return the whole parsed text of a document. Raises DocumentNotFound, BadInput while it is not read
    yet.
    """
    text, _pages = _parsed(_row(document_id, workspace_id=workspace_id, session_id=session_id))
    return text


def parsed_pages(
    document_id: UUID, *, workspace_id: UUID | None = None, session_id: UUID | None = None
) -> tuple[str, list[int]]:
    """Return the whole parsed text and where each of its pages starts (none but for PDF). Raises as
    `parsed_text`.
    """
    return _parsed(_row(document_id, workspace_id=workspace_id, session_id=session_id))


def passage(
    document_id: UUID,
    start: int,
    end: int,
    *,
    workspace_id: UUID | None = None,
    session_id: UUID | None = None,
    surroundings: int = 200,
) -> Passage:
    """Return characters `start` to `end` of a document with up to `surroundings` characters on each side.

    Raises DocumentNotFound, and BadInput for a range outside the text.
    """
    row = _row(document_id, workspace_id=workspace_id, session_id=session_id)
    text, pages = _parsed(row)
    check_passage(start, end, len(text))
    return Passage(
        document_id=document_id,
        title=unseal(row.key_id, row.title),
        start=start,
        end=end,
        text=text[start:end],
        before=text[max(0, start - surroundings) : start],
        after=text[end : end + surroundings],
        page=page_at(pages, start),
    )


def check_passage(start: int, end: int, characters: int) -> None:
    """Raise BadInput for a range outside a text of so many characters, or one that is too long."""
    if not 0 <= start < end <= characters:
        raise BadInput(f"The passage must lie within 0 and {characters}, start before end.", field="start")
    if end - start > MAX_PASSAGE:
        raise BadInput(f"A passage has at most {MAX_PASSAGE} characters.", field="end")


def no_text(status: str, error_message: str) -> BadInput:
    """Return the error that says why a document of this status has no text."""
    waits = {
        "held": "The document is held until it is approved.",
        "received": "The document has not been read yet.",
    }
    return BadInput(waits.get(status, error_message), field="document_id")


def page_at(pages: Sequence[int], offset: int) -> int | None:
    """Return the page (from 1) that holds the character at `offset`; None without pages."""
    if not pages:
        return None
    return max(bisect_right(pages, offset), 1)


def _row(document_id: UUID, *, workspace_id: UUID | None, session_id: UUID | None) -> models.Document:
    rows: QuerySet[models.Document] = models.Document.objects.exclude(status="removed")
    if workspace_id is not None:
        rows = in_scope(workspace_id=workspace_id, session_id=session_id)
    row = rows.filter(id=document_id).first()
    if row is None:
        raise DocumentNotFound("There is no such document.", field="document_id")
    return row


def _parsed(row: models.Document) -> tuple[str, list[int]]:
    if not row.text_blob:
        raise no_text(row.status, row.error_message)
    parsed = json.loads(get_blob(row.text_blob, key_id=row.key_id))
    return parsed["text"], parsed["pages"]


def _detail(row: models.Document) -> DocumentDetail:
    embedded = row.chunks or 0
    if row.status != "ready":
        embedded = models.Vector.objects.filter(document_id=row.id).count()
    return DocumentDetail(
        id=row.id,
        workspace_id=row.workspace_id,
        session_id=row.session_id,
        collection_id=row.collection_id,
        owner_id=row.owner_id,
        title=unseal_or_empty(row.key_id, row.title),
        media_type=row.media_type,
        size=row.size,
        labels=tuple(row.labels),
        status=row.status,
        approval_id=row.approval_id,
        characters=row.characters,
        pages=row.pages,
        chunks=row.chunks,
        embedded=embedded,
        error_code=row.error_code,
        error_message=row.error_message,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
