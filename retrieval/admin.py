"""Read-only pages on collections, documents and what searches cost."""

from typing import Any

from django.contrib import admin
from django.db.models import Case, Q, QuerySet, Value, When
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from cartrita.accounts.console import workspaces_with
from cartrita.eventstore import unseal_or_empty
from cartrita.eventstore.admin import ReadOnlyAdmin
from retrieval.models import Collection, Document, RetrievalMetric

# Who reads what others attach to their sessions.
READERS: frozenset[str] = frozenset({"admin", "auditor"})


@admin.register(Collection)
class CollectionAdmin(ReadOnlyAdmin):
    """Collections."""

    list_display = ("name", "language", "workspace_id", "session_id", "created_at")


@admin.register(Document)
class DocumentAdmin(ReadOnlyAdmin):
    """Documents and how far their ingestion is."""

    list_display = ("opened_title", "status", "media_type", "size", "chunks", "error_code", "created_at")
    list_filter = ("status", "media_type")
    exclude = ("title", "fingerprint")
    readonly_fields = ("opened_title",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Say of each row whether the person may read its title: attachments are their sessions' own."""
        readable = Q(session_id=None) | Q(workspace_id__in=workspaces_with(request.user, READERS))
        titled = Case(When(readable, Value(value=True)), default=Value(value=False))
        rows: QuerySet[Any] = super().get_queryset(request).annotate(titled=titled)
        return rows

    @admin.display(description=_("title"))
    def opened_title(self, row: Any) -> str:
        """Show the title, where the person may read it."""
        if not row.titled:
            return str(_("(an attachment)"))
        return unseal_or_empty(row.key_id, row.title) or str(_("(erased)"))


@admin.register(RetrievalMetric)
class RetrievalMetricAdmin(ReadOnlyAdmin):
    """What searches cost and gave, without what was asked."""

    list_display = (
        "id",
        "retrieval_latency_ms",
        "context_tokens_before",
        "context_tokens_after",
        "usefulness_score",
        "pipeline",
        "created_at",
    )
    exclude = ("query_text", "query_embedding")
