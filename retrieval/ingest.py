"""Reads, divides and embeds documents that were received. Every stage ends in a commit, so a killed
process resumes.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from uuid import UUID

from django.db import DatabaseError, InterfaceError, close_old_connections, connection, transaction
from django.db.models import Exists, F, OuterRef, QuerySet

from cartrita.errors import CartritaError, Unavailable
from cartrita.eventstore import (
    Append,
    Context,
    Event,
    append,
    in_database_thread,
    load,
    unseal,
    unseal_or_empty,
)
from cartrita.eventstore.blobs import BlobAltered, UnknownBlob, get_blob, put_blob
from cartrita.eventstore.models import DataKey
from cartrita.eventstore.sealing import Erased
from governance.detectors import detectors_version, kinds_in, labels_of
from retrieval import admission, index, models, vocabulary
from retrieval import document as documents
from retrieval.chunking import VERSION as CHUNKER
from retrieval.chunking import Chunk, divide
from retrieval.document import (
    DocumentChunked,
    DocumentEmbedded,
    DocumentExamined,
    DocumentFailed,
    DocumentRemoved,
)
from retrieval.embedding import DIMENSION, MODEL, RECIPE, encoder
from retrieval.parsing.process import Reader
from retrieval.parsing.sniffing import CSV
from retrieval.parsing.structure import Parsed, ParseError, parsed_from

logger = logging.getLogger(__name__)

# What makes the vectors now; those of another one are stale.
EMBEDDER = f"{MODEL}-{RECIPE}"
READ_BATCH = 50
EMBED_BATCH = 32
EMBED_DOCUMENTS = 200
STALE_AT_ONCE = 1000
POLL_SECONDS = 1.0
ERASED_SECONDS = 60.0

_waiting: set[threading.Event] = set()
_waiting_lock = threading.Lock()


def wake() -> None:
    """Let the ingest services of this process look for work now; called when a document is committed."""
    with _waiting_lock:
        for work in _waiting:
            work.set()


async def run_ingest() -> None:
    """Ingest documents as they arrive until cancelled; the work is done in a thread of its own."""
    stopping, work = threading.Event(), threading.Event()
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ingest")
    serving = asyncio.get_running_loop().run_in_executor(executor, _serve, stopping, work)
    with _waiting_lock:
        _waiting.add(work)
    try:
        await asyncio.shield(serving)
    finally:
        with _waiting_lock:
            _waiting.discard(work)
        stopping.set()
        work.set()
        # The unit at hand is finished first: some hundred milliseconds, or one document's parsing.
        await asyncio.wait([serving])
        executor.shutdown(wait=False)


async def wait_ready(
    document_ids: Sequence[UUID],
    timeout: float,  # noqa: ASYNC109
    *,
    until_approved: bool = False,
) -> dict[UUID, str]:
    """Wait up to `timeout` seconds until every document is ready, failed or removed; return their
    statuses then. Held ones are waited for only `until_approved`.
    """
    ends = ("ready", "failed", "removed") if until_approved else ("ready", "held", "failed", "removed")
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        statuses = await in_database_thread(_statuses, list(document_ids))
        done = all(status in ends for status in statuses.values())
        left = deadline - asyncio.get_running_loop().time()
        if done or left <= 0:
            return statuses
        await asyncio.sleep(min(0.05, left))


def process_pending(stopping: threading.Event | None = None) -> int:
    """Ingest until nothing is pending (or `stopping` is set); return how many stages of documents were
    finished.

    Several processes may do so at once; each document is held by one of them.
    """
    stop = stopping or threading.Event()
    finished = 0
    with Reader() as reader:
        while not stop.is_set():
            advanced = _decide_some() + _read_some(reader, stop) + _embed_some() + _index_words_some()
            if not advanced:
                break
            finished += advanced
    return finished


def reindex(document_ids: Sequence[UUID] | None = None) -> int:
    """Make the index of documents anew from their kept text (all documents without ids); return how many.

    The same text gives the same passages, postings and vectors. Searches find a document by its words while
    its vectors are computed.
    """
    rows = models.Document.objects.filter(status__in=["chunked", "ready"])
    if document_ids is not None:
        rows = rows.filter(id__in=document_ids)
    done = 0
    for document_id in rows.order_by("created_at", "id").values_list("id", flat=True):
        with _held(document_id) as held:
            row = models.Document.objects.get(id=document_id)
            if not held or row.status not in ("chunked", "ready"):
                continue
            parsed = parsed_from(json.loads(get_blob(row.text_blob, key_id=row.key_id)))
            with transaction.atomic():
                _lock_row(row.id)
                _write_index(row, parsed, divide(parsed))
            index.refresh_statistics([row.collection_id])
            while _embed([document_id]):
                pass
            with suppress(documents.DocumentNotOpen):  # removed meanwhile
                _record_embedded(row)
            done += 1
    return done


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """How many documents were looked at, how many of them have new labels, and how many cannot be read."""

    looked_at: int = 0
    labelled: int = 0
    unreadable: int = 0


def label_documents(collection_ids: Sequence[UUID] | None = None) -> Examined:
    """Look at the kept text of documents at which these detectors have not looked, and label what they find.

    Those of all collections where none is named. Each document is a commit of its own: what is stopped goes
    on where it was, and a second time does nothing. Documents that are erased, or whose file is lost, are
    counted and left alone; so are those that somebody else works on, uncounted.
    """
    rows = models.Document.objects.filter(status__in=["chunked", "ready"])
    if collection_ids is not None:
        rows = rows.filter(collection_id__in=collection_ids)
    done = Examined()
    for document_id in list(rows.order_by("created_at", "id").values_list("id", flat=True)):
        with _held(document_id) as held:
            state = documents.fold(recorded.event for recorded in load(document_id))
            if not held or state.status not in ("chunked", "ready") or state.detectors == detectors_version():
                continue
            row = models.Document.objects.get(id=document_id)
            try:
                parsed = parsed_from(json.loads(get_blob(row.text_blob, key_id=row.key_id)))
                content = get_blob(row.blob, key_id=row.key_id) if row.media_type == CSV else b""
            except (Erased, UnknownBlob, BlobAltered):
                done = replace(done, unreadable=done.unreadable + 1)
                continue
            found = tuple(sorted(_findings(row, parsed, content)))
            with suppress(documents.DocumentNotOpen):  # removed meanwhile
                _record(row, DocumentExamined(findings=found, detectors=detectors_version()))
            new = not labels_of(found) <= set(row.labels)
            done = replace(done, looked_at=done.looked_at + 1, labelled=done.labelled + new)
    return done


def embed_stale(*, seconds: float = 300.0) -> int:
    """Make the vectors of documents anew that another model made, for so long at most; return how many.

    A document's old vectors are found until all of its new ones are there. Several processes may do so at
    once; what is left is done by the next call.
    """
    until = time.monotonic() + seconds
    current = models.DocumentVectors.objects.filter(document_id=OuterRef("id"), model=EMBEDDER)
    stale = models.Document.objects.filter(~Exists(current), status="ready").order_by("created_at", "id")
    done = 0
    for document_id in list(stale.values_list("id", flat=True)[:STALE_AT_ONCE]):
        if time.monotonic() > until:
            break
        with _held(document_id) as held:
            if held and stale.filter(id=document_id).exists():
                done += _embed_anew(document_id)
    return done


def _embed_anew(document_id: UUID) -> bool:
    row = models.Document.objects.get(id=document_id)
    try:
        chunks = index.chunks_of(document_id)
    except Erased:
        _remove_erased(row)
        return False
    vectors = [
        encoder().encode([chunk.text for chunk in chunks[first : first + EMBED_BATCH]])
        for first in range(0, len(chunks), EMBED_BATCH)
    ]
    try:
        with transaction.atomic():
            _lock_row(document_id)
            for place, some in enumerate(vectors):
                first = place * EMBED_BATCH
                index.write_vectors([chunk.number for chunk in chunks[first : first + EMBED_BATCH]], some)
            _record_embedded(row)
    except documents.DocumentNotOpen:
        logger.info("document %s was removed while it was embedded anew", document_id)
        return False
    return True


def remove_erased() -> int:
    """Remove documents whose key was destroyed with its subject's; return how many.

    Searches never show them in the meantime; this takes their words and vectors out of the index too.
    """
    destroyed = DataKey.objects.filter(key_id=OuterRef("key_id"), erased_at__isnull=False)
    rows = list(models.Document.objects.exclude(status="removed").filter(Exists(destroyed))[:1000])
    for row in rows:
        _remove_erased(row)
    return len(rows)


def _remove_erased(row: models.Document) -> None:
    with transaction.atomic():
        _lock_row(row.id)
        state = documents.fold(recorded.event for recorded in load(row.id))
        if state.status == "removed":
            return
        context = Context(workspace_id=row.workspace_id, session_id=row.session_id, actor="system")
        append(Append(row.id, state.version, [DocumentRemoved(erased=True)], context))
        index.drop_document(row.id)
        vocabulary.erase_unused(collection_id=row.collection_id, owner_id=row.owner_id, actor="system")
    index.refresh_statistics([row.collection_id])


def _serve(stopping: threading.Event, work: threading.Event) -> None:
    erased_checked_at = 0.0
    try:
        while not stopping.is_set():
            work.clear()
            close_old_connections()
            try:
                process_pending(stopping)
                if time.monotonic() > erased_checked_at + ERASED_SECONDS:
                    remove_erased()
                    erased_checked_at = time.monotonic()
            except (DatabaseError, InterfaceError, Unavailable):
                if stopping.is_set():
                    # The database was stopped under the last unit, which is done again after the next start.
                    logger.info("ingestion stops in the middle of a document: its database is gone")
                    return
                logger.exception("ingestion waits: the database or the embedding model does not answer")
                stopping.wait(POLL_SECONDS)
            except Exception:
                logger.exception("ingestion met a fault of this program and tries again")
                stopping.wait(POLL_SECONDS)
            work.wait(POLL_SECONDS)
    finally:
        connection.close()


def _decide_some() -> int:
    """Go on with held documents that people have decided on; return how many may be read now."""
    released = 0
    for document_id in admission.to_decide_again(READ_BATCH):
        try:
            released += admission.decide_again(document_id)
        except Erased:
            _remove_erased(models.Document.objects.get(id=document_id))
        except (UnknownBlob, BlobAltered) as error:
            failed = DocumentFailed(stage="policy", code=error.code, message=error.message)
            with suppress(documents.DocumentNotOpen):  # removed meanwhile
                _record(models.Document.objects.get(id=document_id), failed)
        except CartritaError as error:
            # A policy that cannot be read must not hold up documents that were let in before.
            logger.warning("document %s is decided again later: %s", document_id, error)
    return released


def _read_some(reader: Reader, stop: threading.Event) -> int:
    """Read up to a batch of received documents; return how many were."""
    # Somebody waits for an attachment; the workspace's documents may be many.
    attachments_first = F("session_id").asc(nulls_last=True)
    pending = models.Document.objects.filter(status="received").order_by(
        attachments_first, "created_at", "id"
    )
    advanced = 0
    collections: set[UUID] = set()
    for document_id in pending.values_list("id", flat=True)[:READ_BATCH]:
        if stop.is_set():
            break
        with _held(document_id) as held:
            row = models.Document.objects.get(id=document_id)
            if not held or row.status != "received":
                continue
            _read(row, reader)
            collections.add(row.collection_id)
            advanced += 1
    if collections:
        index.refresh_statistics(collections)
    return advanced


def _read(row: models.Document, reader: Reader) -> None:
    try:
        content = get_blob(row.blob, key_id=row.key_id)
        parsed, chunks = reader.read_and_divide(content, row.media_type)
    except ParseError as error:
        with suppress(documents.DocumentNotOpen):  # removed meanwhile
            _record(row, DocumentFailed(stage="parse", code=error.code, message=error.message))
        return
    except Erased:
        _remove_erased(row)
        return
    except (UnknownBlob, BlobAltered) as error:
        # A restore that lost blobs must not hold up the documents behind this one.
        with suppress(documents.DocumentNotOpen):
            _record(row, DocumentFailed(stage="parse", code=error.code, message=error.message))
        return
    try:
        findings = tuple(sorted(_findings(row, parsed, content)))
        with transaction.atomic():
            _lock_row(row.id)
            text_blob = put_blob(json.dumps(parsed.as_dict()).encode(), key_id=row.key_id)
            _write_index(row, parsed, chunks)
            chunked = DocumentChunked(
                parser=parsed.parser,
                chunker=CHUNKER,
                text_blob=text_blob,
                characters=len(parsed.text),
                pages=len(parsed.pages) or None,
                chunks=len(chunks),
                findings=findings,
                detectors=detectors_version(),
            )
            _record(row, chunked)
    except documents.DocumentNotOpen:
        logger.info("document %s was removed while it was read", row.id)
    except (DatabaseError, InterfaceError, Unavailable):
        raise  # not the document's fault: it stays pending
    except Exception:
        logger.exception("dividing document %s failed", row.id)
        message = "Dividing the document failed by a fault of this program; its log says more."
        _record(row, DocumentFailed(stage="chunk", code="ingest_fault", message=message))


def _findings(row: models.Document, parsed: Parsed, content: bytes) -> frozenset[str]:
    """Return the kinds of what is found in the text of a document, and in its title."""
    found = kinds_in(parsed.text) | kinds_in(unseal_or_empty(row.key_id, row.title))
    if row.media_type == CSV:
        # The text of a table tells of its first rows alone.
        found |= kinds_in(content.decode(errors="replace"))
    return found


def _write_index(row: models.Document, parsed: Parsed, chunks: list[Chunk]) -> None:
    index.write_document(
        row,
        title=unseal(row.key_id, row.title),
        text=parsed.text,
        chunks=chunks,
        version=CHUNKER,
        language=_language(row),
    )
    models.DocumentWithoutWords.objects.filter(document_id=row.id).delete()


def _index_words_some() -> int:
    """Index the words of a batch of documents that lost them in a migration; return how many."""
    waiting = models.DocumentWithoutWords.objects.order_by("document_id")
    advanced = 0
    for document_id in waiting.values_list("document_id", flat=True)[:READ_BATCH]:
        with _held(document_id) as held, transaction.atomic():
            if not held:
                continue
            _lock_row(document_id)
            row = models.Document.objects.get(id=document_id)
            if row.status in ("chunked", "ready"):
                with suppress(Erased):  # remove_erased takes it out
                    index.write_words(row, language=_language(row))
            waiting.filter(document_id=document_id).delete()
            advanced += 1
    return advanced


def _language(row: models.Document) -> str:
    return models.Collection.objects.values_list("language", flat=True).get(id=row.collection_id)


def _embed_some() -> int:
    """Embed a batch of chunks; return how many chunks or documents that advanced."""
    pending = models.Document.objects.filter(status="chunked").order_by("created_at", "id")
    attached = pending.exclude(session_id=None)
    ids = list((attached if attached.exists() else pending).values_list("id", flat=True)[:EMBED_DOCUMENTS])
    held = [document_id for document_id in ids if _try_hold(document_id)]
    try:
        if not held:
            return 0
        advanced = _embed(held)
        rows = models.Document.objects.filter(id__in=held, status="chunked").order_by("created_at", "id")
        for row in rows.filter(~Exists(_chunks_without_vector())):
            with suppress(documents.DocumentNotOpen):  # removed meanwhile
                _record_embedded(row)
            advanced += 1
        return advanced
    finally:
        for document_id in held:
            _let_go(document_id)


def _chunks_without_vector() -> QuerySet[models.Chunk]:
    vectors = models.Vector.objects.filter(chunk_number=OuterRef("number"))
    return models.Chunk.objects.filter(~Exists(vectors), document_id=OuterRef("id"))


def _embed(document_ids: Sequence[UUID]) -> int:
    try:
        waiting = index.without_vector(document_ids, limit=EMBED_BATCH)
    except Erased:
        return remove_erased()
    if waiting:
        index.write_vectors(
            [chunk.number for chunk in waiting], encoder().encode([chunk.text for chunk in waiting])
        )
    return len(waiting)


def _record_embedded(row: models.Document) -> None:
    """Note that the present model made a document's vectors. Raises DocumentNotOpen."""
    with transaction.atomic():
        _record(row, DocumentEmbedded(model=EMBEDDER, dimension=DIMENSION, chunks=row.chunks or 0))
        models.DocumentVectors.objects.update_or_create(document_id=row.id, defaults={"model": EMBEDDER})


def _record(row: models.Document, event: Event) -> None:
    """Append an event to a document's stream where its state still asks for it. Raises DocumentNotOpen."""
    with transaction.atomic():
        _lock_row(row.id)
        state = documents.fold(recorded.event for recorded in load(row.id))
        match event:
            case DocumentChunked():
                events = documents.divide(state, event)
            case DocumentExamined():
                events = documents.examine(state, event)
            case DocumentEmbedded():
                events = documents.embed(state, event)
            case DocumentFailed():
                events = documents.fail(state, event)
            case _:
                raise AssertionError(f"{event.type_name} is not recorded here")
        if events:
            context = Context(
                workspace_id=row.workspace_id, session_id=row.session_id, actor="system", key_id=row.key_id
            )
            append(Append(row.id, state.version, events, context))


def _lock_row(document_id: UUID) -> None:
    """Let removal and ingestion of a document wait for one another; everybody takes this lock first."""
    models.Document.objects.select_for_update().get(id=document_id)


def _statuses(document_ids: list[UUID]) -> dict[UUID, str]:
    found = dict(models.Document.objects.filter(id__in=document_ids).values_list("id", "status"))
    return {document_id: found.get(document_id, "removed") for document_id in document_ids}


@contextmanager
def _held(document_id: UUID) -> Iterator[bool]:
    """Hold a document for this connection; False when another process holds it. A dying process lets go."""
    held = _try_hold(document_id)
    try:
        yield held
    finally:
        if held:
            _let_go(document_id)


def _try_hold(document_id: UUID) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [f"retrieval:ingest:{document_id}"]
        )
        return bool(cursor.fetchone()[0])


def _let_go(document_id: UUID) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [f"retrieval:ingest:{document_id}"]
        )
