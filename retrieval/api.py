"""REST: documents and search."""

from dataclasses import asdict
from typing import Any, ClassVar, cast
from uuid import UUID

from django.core.files.uploadedfile import UploadedFile
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts.authentication import caller
from cartrita.accounts.console import CONSOLE_ROLES
from cartrita.accounts.permissions import require_role
from cartrita.accounts.queries import Caller
from cartrita.errors import BadInput, NotAllowed, NotFound
from cartrita.eventstore import unseal_or_empty
from cartrita.http.fields import Text
from cartrita.http.pagination import PAGE_PARAMETERS, page_parameters
from cartrita.http.parameters import uuid_parameter
from cartrita.http.views import ApiView
from retrieval import commands, queries
from retrieval.document import MAX_LABELS
from retrieval.models import RetrievalMetric
from retrieval.questions import MAX_QUERY
from retrieval.scope import may_read, may_write
from retrieval.search import MAX_K
from retrieval.searching import read_as, search_as

STATUSES = ("held", "received", "chunked", "ready", "failed")
_SESSION = OpenApiParameter(
    "session_id",
    OpenApiTypes.UUID,
    description="Also the attachments of this session.",
)


class SessionNotVisible(NotFound):
    """There is no such session, or it is another person's."""

    code = "session_not_found"


class NewDocument(serializers.Serializer[Any]):
    """A file to keep."""

    file = serializers.FileField(
        allow_empty_file=True, help_text="PDF, HTML, Markdown or plain text, up to 50 MiB."
    )
    title = serializers.CharField(required=False, help_text="The file's name by default.")
    session_id = serializers.UUIDField(required=False, help_text="Attach it to this session only.")
    labels = serializers.ListField(child=serializers.CharField(), required=False, max_length=MAX_LABELS)


class ReceivedDocument(serializers.Serializer[Any]):
    """The document is kept and will be read; one that is `held`, when people have approved it."""

    id = serializers.UUIDField()
    status = serializers.CharField()


class DocumentEntry(serializers.Serializer[Any]):
    """A document and how far its ingestion is."""

    id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()
    session_id = serializers.UUIDField(allow_null=True)
    collection_id = serializers.UUIDField()
    owner_id = serializers.UUIDField()
    title = serializers.CharField()
    media_type = serializers.CharField()
    size = serializers.IntegerField()
    labels = serializers.ListField(child=serializers.CharField())
    status = serializers.ChoiceField(choices=STATUSES)
    approval_id = serializers.UUIDField(
        allow_null=True, help_text="What a held document waits for, or waited for."
    )
    characters = serializers.IntegerField(allow_null=True)
    pages = serializers.IntegerField(allow_null=True)
    chunks = serializers.IntegerField(allow_null=True)
    embedded = serializers.IntegerField()
    error_code = serializers.CharField(allow_blank=True)
    error_message = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class DocumentPage(serializers.Serializer[Any]):
    """Documents, newest first."""

    items = DocumentEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class PassageEntry(serializers.Serializer[Any]):
    """A part of a document's text with what stands around it."""

    document_id = serializers.UUIDField()
    title = serializers.CharField()
    start = serializers.IntegerField()
    end = serializers.IntegerField()
    text = serializers.CharField()
    before = serializers.CharField(allow_blank=True)
    after = serializers.CharField(allow_blank=True)
    page = serializers.IntegerField(allow_null=True)


class Search(serializers.Serializer[Any]):
    """What to look for."""

    query = Text(max_length=MAX_QUERY)
    session_id = serializers.UUIDField(required=False)
    document_ids = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=100)
    k = serializers.IntegerField(min_value=1, max_value=MAX_K, default=10)


class FoundPassage(serializers.Serializer[Any]):
    """A passage found."""

    chunk_id = serializers.UUIDField()
    document_id = serializers.UUIDField()
    title = serializers.CharField()
    heading = serializers.CharField(allow_blank=True)
    start = serializers.IntegerField()
    end = serializers.IntegerField()
    page = serializers.IntegerField(allow_null=True)
    text = serializers.CharField()
    score = serializers.FloatField()
    lexical = serializers.FloatField(allow_null=True)
    dense = serializers.FloatField(allow_null=True)


class Found(serializers.Serializer[Any]):
    """Passages, best first, and how long each stage took in milliseconds."""

    retrieval_id = serializers.UUIDField()
    hits = FoundPassage(many=True)
    timings_ms = serializers.DictField(child=serializers.FloatField())


_METRIC_IN_CLEAR = (
    "id",
    "session_id",
    "pipeline",
    "k_initial",
    "k_rerank",
    "retrieval_latency_ms",
    "rerank_latency_ms",
    "timings_ms",
    "usefulness_score",
    "context_tokens_before",
    "context_tokens_after",
    "compression_ratio",
    "documents_retrieved",
    "documents_used",
    "created_at",
)


class SearchEntry(serializers.Serializer[Any]):
    """What a search cost and gave; `query` is null where it is erased, or not for the caller."""

    id = serializers.UUIDField()
    session_id = serializers.UUIDField(allow_null=True)
    query = serializers.CharField(allow_null=True)
    pipeline = serializers.CharField()
    k_initial = serializers.IntegerField()
    k_rerank = serializers.IntegerField(allow_null=True)
    retrieval_latency_ms = serializers.FloatField()
    rerank_latency_ms = serializers.FloatField(allow_null=True)
    timings_ms = serializers.DictField(child=serializers.FloatField())
    usefulness_score = serializers.FloatField(allow_null=True)
    context_tokens_before = serializers.IntegerField()
    context_tokens_after = serializers.IntegerField()
    compression_ratio = serializers.FloatField(allow_null=True)
    documents_retrieved = serializers.ListField(child=serializers.UUIDField())
    documents_used = serializers.ListField(child=serializers.UUIDField())
    created_at = serializers.DateTimeField()


class SearchPage(serializers.Serializer[Any]):
    """Searches, newest first."""

    items = SearchEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class Documents(ApiView):
    """The workspace's documents."""

    parser_classes = (MultiPartParser,)

    @extend_schema(
        operation_id="documents_list",
        parameters=[
            _SESSION,
            OpenApiParameter("status", {"type": "string", "enum": list(STATUSES)}),
            OpenApiParameter("label", OpenApiTypes.STR, description="Only those with this label."),
            *PAGE_PARAMETERS,
        ],
        responses=DocumentPage,
    )
    def get(self, request: Request) -> Response:
        """List documents, newest first."""
        asked = caller(request)
        cursor, limit = page_parameters(request)
        status = request.query_params.get("status", "")
        if status and status not in STATUSES:
            raise BadInput(f"status is one of {', '.join(STATUSES)}.", field="status")
        label = request.query_params.get("label", "")
        if "\0" in label:
            raise BadInput("A label holds no NUL.", field="label")
        page = queries.page_in_scope(
            workspace_id=asked.workspace_id,
            session_id=_session(request),
            status=status,
            label=label,
            cursor=cursor,
            limit=limit,
        )
        return Response({"items": [asdict(item) for item in page.items], "next_cursor": page.next_cursor})

    @extend_schema(
        operation_id="documents_receive",
        request={"multipart/form-data": NewDocument},
        responses={202: ReceivedDocument},
    )
    def post(self, request: Request) -> Response:
        """Keep a file for reading."""
        asked = caller(request)
        wanted = NewDocument(data=request.data)
        wanted.is_valid(raise_exception=True)
        values = wanted.validated_data
        file = cast("UploadedFile[Any]", values["file"])
        if (file.size or 0) > commands.MAX_BYTES:
            raise commands.DocumentTooLarge(
                f"The document has {file.size} bytes; at most {commands.MAX_BYTES} are accepted.",
                field="file",
                limit=commands.MAX_BYTES,
            )
        document_id = commands.receive_document(
            workspace_id=asked.workspace_id,
            owner_id=asked.user_id,
            title=values.get("title") or file.name or "",
            media_type=file.content_type or "",
            file_name=file.name or "",
            content=file.read(),
            session_id=_own(request, values.get("session_id")),
            labels=values.get("labels", ()),
            actor=asked.actor,
        )
        status = queries.document(document_id).status
        answer = {"id": document_id, "status": status}
        return Response(answer, status=202, headers={"Location": f"/api/v2/documents/{document_id}"})


class DocumentDetail(ApiView):
    """One document."""

    @extend_schema(operation_id="documents_get", parameters=[_SESSION], responses=DocumentEntry)
    def get(self, request: Request, document_id: UUID) -> Response:
        """Return a document and how far its ingestion is."""
        asked = caller(request)
        detail = queries.document(document_id, workspace_id=asked.workspace_id, session_id=_session(request))
        return Response(asdict(detail))

    @extend_schema(
        operation_id="documents_remove",
        parameters=[
            _SESSION,
            OpenApiParameter("erase", OpenApiTypes.BOOL, description="Also destroy its key, beyond recall."),
        ],
        responses={204: None},
    )
    def delete(self, request: Request, document_id: UUID) -> Response:
        """Take a document out of every search, and erase it where asked."""
        asked = caller(request)
        erase = request.query_params.get("erase", "false").lower()
        if erase not in ("true", "false"):
            raise BadInput("erase is true or false.", field="erase")
        detail = queries.document(document_id, workspace_id=asked.workspace_id, session_id=_session(request))
        if detail.owner_id != asked.user_id and "admin" not in asked.roles:
            raise NotAllowed("Only who sent the document, or an administrator, may remove it.")
        command = commands.erase_document if erase == "true" else commands.remove_document
        command(document_id=document_id, workspace_id=asked.workspace_id, actor=asked.actor)
        return Response(status=204)


class DocumentText(ApiView):
    """Text of a document."""

    @extend_schema(
        operation_id="documents_passage",
        parameters=[
            _SESSION,
            OpenApiParameter("start", OpenApiTypes.INT, required=True, description="The first character."),
            OpenApiParameter(
                "end", OpenApiTypes.INT, required=True, description="Behind the last character."
            ),
        ],
        responses=PassageEntry,
    )
    def get(self, request: Request, document_id: UUID) -> Response:
        """Return characters `start` to `end` of the text, as a citation names them; it is decided on.

        Where policy wants a person's approval first (403, approval_needed), send the same again after it.
        """
        asked = caller(request)
        start, end = (_number(request, name) for name in ("start", "end"))
        session_id = _session(request)
        workspace_id = asked.workspace_id
        characters = queries.document(
            document_id, workspace_id=workspace_id, session_id=session_id
        ).characters
        if characters is not None:
            queries.check_passage(start, end, characters)
        passage = read_as(
            asked,
            document_id,
            lambda: queries.passage(
                document_id, start, end, workspace_id=workspace_id, session_id=session_id
            ),
            start=start,
            end=end,
            session_id=session_id,
        )
        return Response(asdict(passage))


class Searches(ApiView):
    """Search by words and meaning."""

    scopes: ClassVar = {"POST": "read"}
    # Passages of what was erased, or is not for this person any more, are not given again.
    kept = False

    @extend_schema(operation_id="search", request=Search, responses=Found)
    def post(self, request: Request) -> Response:
        """Return the best passages; the search is decided on and recorded.

        Where policy wants a person's approval first (403, approval_needed), send the same again after it.
        """
        asked = caller(request)
        wanted = Search(data=request.data)
        wanted.is_valid(raise_exception=True)
        values = wanted.validated_data
        done = search_as(
            asked,
            values["query"],
            session_id=_visible(request, values.get("session_id")),
            document_ids=values.get("document_ids"),
            k=values["k"],
        )
        hits = FoundPassage(done.found.hits, many=True).data
        timings = dict(done.found.timings)
        return Response({"retrieval_id": done.retrieval_id, "hits": hits, "timings_ms": timings})


class RetrievalMetrics(ApiView):
    """What searches cost and gave."""

    @extend_schema(
        operation_id="retrieval_metrics_list",
        parameters=[
            OpenApiParameter("session_id", OpenApiTypes.UUID, description="Only those of this session."),
            *PAGE_PARAMETERS,
        ],
        responses=SearchPage,
    )
    def get(self, request: Request) -> Response:
        """List what searches cost and gave, newest first.

        Those of a session for who may read it; those of the workspace for who looks after it.
        """
        asked = caller(request)
        cursor, limit = page_parameters(request)
        session_id = _session(request)
        if session_id is None:
            require_role(request, CONSOLE_ROLES)
        page = queries.metrics_page(
            workspace_id=asked.workspace_id, session_id=session_id, cursor=cursor, limit=limit
        )
        items = [_metric(row, readable=_reads_query(asked, row, session_id)) for row in page.items]
        return Response({"items": items, "next_cursor": page.next_cursor})


class RetrievalMetricOne(ApiView):
    """What one search cost and gave."""

    @extend_schema(operation_id="retrieval_metrics_get", responses=SearchEntry)
    def get(self, request: Request, retrieval_id: UUID) -> Response:
        """Return what a search cost and gave."""
        asked = caller(request)
        row = queries.metric(retrieval_id, workspace_id=asked.workspace_id)
        session_id = row.session_id if row.session_id and may_read(asked, row.session_id) else None
        if session_id is None and not asked.roles & CONSOLE_ROLES:
            raise queries.RetrievalNotFound("There is no such search.", field="retrieval_id")
        return Response(_metric(row, readable=_reads_query(asked, row, session_id)))


def _reads_query(asked: Caller, row: RetrievalMetric, session_id: UUID | None) -> bool:
    """Tell whether somebody may read what was searched for; `session_id` is one that they may read."""
    return row.session_id == session_id is not None or not asked.roles.isdisjoint({"admin", "auditor"})


def _metric(row: RetrievalMetric, *, readable: bool) -> dict[str, Any]:
    query = unseal_or_empty(row.key_id, row.query_text) if readable and row.key_id else ""
    return {**{name: getattr(row, name) for name in _METRIC_IN_CLEAR}, "query": query or None}


def _session(request: Request) -> UUID | None:
    return _visible(request, uuid_parameter(request, "session_id"))


def _visible(request: Request, session_id: UUID | None) -> UUID | None:
    """Return the session's id when the caller may see it. Raises SessionNotVisible."""
    if session_id is not None and not may_read(caller(request), session_id):
        raise SessionNotVisible("There is no such session.", field="session_id")
    return session_id


def _own(request: Request, session_id: UUID | None) -> UUID | None:
    """Return the session's id when it is the caller's. Raises SessionNotVisible."""
    if session_id is not None and not may_write(caller(request), session_id):
        raise SessionNotVisible("You have no such session.", field="session_id")
    return session_id


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadInput(f"Give {name} as a number of characters.", field=name)
    return int(text)
