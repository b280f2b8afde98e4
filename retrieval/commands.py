"""What can be done with documents."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.utils.crypto import salted_hmac

from cartrita.errors import BadInput, TooLarge
from cartrita.eventstore import Append, Context, append, create_data_key, derived_id, erase_key, load, new_id
from cartrita.eventstore.blobs import put_blob
from governance.commands.approvals import cancel
from governance.refusals import refusal
from governance.step import ACTOR_LABELS_FOR
from retrieval import admission, index, ingest, models, queries, vocabulary
from retrieval import document as documents
from retrieval.document import CollectionCreated, DocumentNotFound, DocumentReceived
from retrieval.parsing.sniffing import accept_media_type

MAX_BYTES = 50 * 1024 * 1024
LANGUAGE = "english"
# Decisions on searches state every label that they may meet: with far more they are too large to record.
MAX_WORKSPACE_LABELS = 100
LABELS_NAMED = 20
# Labels of removed documents are facts of decisions for as long: taking turns does not get around the limit.
LABELS_COUNT_FOR = ACTOR_LABELS_FOR


class DocumentTooLarge(TooLarge):
    """The file is above the limit."""

    code = "document_too_large"


class DocumentEmpty(BadInput):
    """The file holds nothing."""

    code = "document_empty"


class TooManyLabels(BadInput):
    """The documents of the workspace carry as many different labels as decisions can state."""

    code = "too_many_labels"


def create_collection(
    *,
    workspace_id: UUID,
    name: str,
    actor: str,
    collection_id: UUID | None = None,
    session_id: UUID | None = None,
    language: str = LANGUAGE,
) -> UUID:
    """Make a collection and return its id; one that exists stays as it is.

    `language` names a PostgreSQL text search configuration. Raises BadInput for an unknown language or empty
    name.
    """
    if not name.strip():
        raise BadInput("Name the collection.", field="name")
    _check_language(language)
    stream = collection_id or new_id()
    with transaction.atomic():
        _lock("collection", str(stream))
        if not models.Collection.objects.filter(id=stream).exists():
            context = Context(workspace_id=workspace_id, session_id=session_id, actor=actor)
            append(Append(stream, 0, [CollectionCreated(name=name, language=language)], context))
    return stream


def receive_document(
    *,
    workspace_id: UUID,
    owner_id: UUID,
    title: str,
    media_type: str,
    content: bytes,
    actor: str,
    collection_id: UUID | None = None,
    session_id: UUID | None = None,
    document_id: UUID | None = None,
    labels: Sequence[str] = (),
    file_name: str = "",
) -> UUID:
    """Keep a file for ingestion, where policy lets it in, and return its document's id.

    A document that people have to approve is kept but held: nobody reads or finds it before that. The same
    content with the same labels in the same collection is kept once: the first document's id is returned.
    Without `collection_id` it goes to the session's attachments, or to the workspace's own
    collection. `media_type` is what the sender claims; it is checked against the bytes, and where it says
    little, `file_name`, or else the title, tells by its ending. Raises
    DocumentEmpty, DocumentTooLarge, BadInput (code media_type_*), TooManyLabels where the workspace would get
    more than 100 different ones, DocumentNotFound for another's collection, DocumentNotOpen for the id of a
    removed one; DeniedByPolicy and Throttled, whose decision stands.
    """
    if not content.strip():
        raise DocumentEmpty("The document is empty: choose another file.", field="content")
    if len(content) > MAX_BYTES:
        raise DocumentTooLarge(
            f"The document has {len(content)} bytes; at most {MAX_BYTES} are accepted.",
            field="content",
            limit=MAX_BYTES,
        )
    documents.check_title(title)
    documents.check_labels(labels)
    accepted = accept_media_type(content, claimed=media_type, name=file_name or title)
    ordered_labels = tuple(sorted(set(labels)))
    with transaction.atomic():
        collection = _collection(
            workspace_id=workspace_id, session_id=session_id, collection_id=collection_id, actor=actor
        )
        fingerprint = _fingerprint(collection, ordered_labels, content)
        known = _known(collection, fingerprint, document_id)
        if known is not None:
            return known
        _check_workspace_labels(ordered_labels, workspace_id=workspace_id, session_id=session_id)
        key_id = create_data_key(subject_id=owner_id, scope="document")
        context = Context(workspace_id=workspace_id, session_id=session_id, actor=actor, key_id=key_id)
        decided = admission.decide(
            title=title,
            media_type=accepted,
            labels=ordered_labels,
            content=content,
            owner_id=owner_id,
            context=context,
        )
    if decided.permit is None and decided.approval_id is None:
        raise refusal(decided)
    # On its own: a large file takes seconds to store, and other acts wait for what a decision locks.
    try:
        with transaction.atomic():
            known = _known(collection, fingerprint, document_id)
            if known is not None:
                admission.withdraw(decided, context)
                return known
            received = DocumentReceived(
                title=title,
                media_type=accepted,
                size=len(content),
                blob=put_blob(content, key_id=key_id),
                fingerprint=fingerprint,
                collection_id=collection,
                owner_id=owner_id,
                labels=ordered_labels,
                decision_id=decided.decision_id,
            )
            # Once more: others may have brought new labels since.
            _check_workspace_labels(ordered_labels, workspace_id=workspace_id, session_id=session_id)
            stream = document_id or new_id()
            arrived = Append(stream, 0, admission.arrival(received, decided), context)
            admission.record(decided, context, arrived)
            transaction.on_commit(ingest.wake, robust=True)
    except TooManyLabels:
        admission.withdraw(decided, context)
        raise
    return stream


def remove_document(*, document_id: UUID, workspace_id: UUID, actor: str) -> None:
    """Take a document out of every search, at once and for good; its bytes stay until it is erased.

    Nothing happens when it was removed before. Raises DocumentNotFound.
    """
    _remove(document_id=document_id, workspace_id=workspace_id, actor=actor, erased=False)


def erase_document(*, document_id: UUID, workspace_id: UUID, actor: str) -> None:
    """Remove a document and destroy its key, so that neither its bytes, text nor title can be read again.

    Raises DocumentNotFound.
    """
    _remove(document_id=document_id, workspace_id=workspace_id, actor=actor, erased=True)


def erase_session_documents(*, session_id: UUID, workspace_id: UUID, actor: str) -> int:
    """Erase every document attached to a session and return how many there were."""
    attached = models.Document.objects.filter(session_id=session_id, workspace_id=workspace_id)
    with transaction.atomic():
        # All locks first: the key of their words is locked after documents, never between them.
        ids = list(attached.select_for_update().order_by("id").values_list("id", flat=True))
        for document_id in ids:
            erase_document(document_id=document_id, workspace_id=workspace_id, actor=actor)
    return len(ids)


def erase_documents_of(*, user_id: UUID, actor: str) -> int:
    """Erase every document of a person, in the caller's transaction; return how many there were."""
    owned = models.Document.objects.filter(owner_id=user_id)
    rows = list(owned.select_for_update().order_by("id").values_list("id", "workspace_id"))
    for document_id, workspace_id in rows:
        erase_document(document_id=document_id, workspace_id=workspace_id, actor=actor)
    return len(rows)


def default_collection(*, workspace_id: UUID, session_id: UUID | None = None) -> UUID:
    """Return the id of a session's attachments, or of the workspace's own collection."""
    return derived_id(session_id, "attachments") if session_id else derived_id(workspace_id, "documents")


def _remove(*, document_id: UUID, workspace_id: UUID, actor: str, erased: bool) -> None:
    with transaction.atomic():
        # Ingestion takes the same lock, so neither meets the other's half-written events.
        rows = models.Document.objects.select_for_update()
        row = rows.filter(id=document_id, workspace_id=workspace_id).first()
        if row is None:
            raise DocumentNotFound("There is no such document.", field="document_id")
        state = documents.fold(recorded.event for recorded in load(document_id))
        events = documents.remove(state, erased=erased)
        if events:
            context = Context(
                workspace_id=row.workspace_id, session_id=row.session_id, actor=actor, key_id=row.key_id
            )
            append(Append(document_id, state.version, events, context))
        if row.status == "held" and row.approval_id is not None:
            cancel(approval_id=row.approval_id, actor=actor)
        index.drop_document(document_id)
        index.refresh_statistics([row.collection_id])
        if erased:
            erase_key(row.key_id, actor=actor)
            vocabulary.erase_unused(collection_id=row.collection_id, owner_id=row.owner_id, actor=actor)


def _collection(
    *, workspace_id: UUID, session_id: UUID | None, collection_id: UUID | None, actor: str
) -> UUID:
    if collection_id is None:
        return create_collection(
            workspace_id=workspace_id,
            name="Attachments" if session_id else "Documents",
            collection_id=default_collection(workspace_id=workspace_id, session_id=session_id),
            session_id=session_id,
            actor=actor,
        )
    owned = models.Collection.objects.filter(
        id=collection_id, workspace_id=workspace_id, session_id=session_id
    )
    if not owned.exists():
        raise DocumentNotFound("There is no such collection.", field="collection_id")
    return collection_id


def _known(collection_id: UUID, fingerprint: str, document_id: UUID | None) -> UUID | None:
    """Return the document with that content or id, which nobody else receives until the commit."""
    _lock("fingerprint", fingerprint)
    same = models.Document.objects.filter(collection_id=collection_id, fingerprint=fingerprint)
    # What was refused may be sent again, and is decided again.
    same = same.exclude(status="removed").exclude(status="failed", error_code__in=admission.REFUSED)
    found = same.values_list("id", flat=True).first()
    if found is None and document_id is not None:
        state = documents.fold(recorded.event for recorded in load(document_id))
        return None if documents.is_new(state) else document_id
    return found


def _check_workspace_labels(labels: Sequence[str], *, workspace_id: UUID, session_id: UUID | None) -> None:
    """Raise TooManyLabels where the workspace would get too many; until the commit nobody else adds any."""
    if not labels or not _new_labels(labels, workspace_id)[0]:
        return
    _lock("labels", str(workspace_id))
    new, known = _new_labels(labels, workspace_id)
    if not new or known + len(new) <= MAX_WORKSPACE_LABELS:
        return
    # Those of other people's attachments are not told.
    reach = queries.in_scope(workspace_id=workspace_id, session_id=session_id)
    named = sorted(_labels_of(reach))[:LABELS_NAMED]
    remedy = f"use labels that exist, as {', '.join(named)}." if named else "leave new labels out."
    raise TooManyLabels(
        f"The documents of the workspace have {known} different labels and would get {len(new)} more; at most"
        f" {MAX_WORKSPACE_LABELS} are kept: {remedy}",
        field="labels",
        limit=MAX_WORKSPACE_LABELS,
    )


def _new_labels(labels: Sequence[str], workspace_id: UUID) -> tuple[set[str], int]:
    """Return those that no document of the workspace carries, and how many others there are."""
    counted = Q(updated_at__gt=datetime.now(UTC) - LABELS_COUNT_FOR) | ~Q(status="removed")
    known = _labels_of(models.Document.objects.filter(counted, workspace_id=workspace_id))
    return set(labels) - known, len(known)


def _labels_of(rows: QuerySet[models.Document]) -> set[str]:
    return {label for labels in rows.values_list("labels", flat=True).distinct() for label in labels}


def _fingerprint(collection_id: UUID, labels: Sequence[str], content: bytes) -> str:
    # Keyed, so that the log never confirms a guess at what an erased document said.
    salt = f"retrieval.document:{collection_id}:{','.join(labels)}"
    return salted_hmac(salt, content, algorithm="sha256").hexdigest()


def _lock(kind: str, name: str) -> None:
    """Let one transaction at a time decide about `name`; the lock ends with the transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"retrieval:{kind}:{name}"])


def _check_language(language: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_ts_config WHERE cfgname = %s", [language])
        if cursor.fetchone() is None:
            raise BadInput(
                f"PostgreSQL has no text search configuration {language!r}; try 'english' or 'simple'.",
                field="language",
            )
