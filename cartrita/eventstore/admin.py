"""The event browser, the base of all read-only pages, and the titles of the console."""

import json
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from cartrita.eventstore.models import Event, OrderedEvent, TreeHead
from cartrita.eventstore.registry import all_event_classes

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    # ModelAdmin takes no type argument at run time.
    _ModelAdmin = admin.ModelAdmin

admin.site.site_header = _("Cartrita governance console")
admin.site.site_title = _("Cartrita")
admin.site.index_title = _("What happened, who may do what")


# Tells in which workspaces a person may look at rows; the app that knows people registers it.
_reach: list[Callable[[Any], Collection[UUID]]] = []


def register_reach(reach: Callable[[Any], Collection[UUID]]) -> None:
    """Register which workspaces' rows a person sees who is no superuser; without it, none."""
    _reach[:] = [reach]


class ReadOnlyAdmin(_ModelAdmin):
    """A page on rows that only events change: looking needs the view permission, changing is for nobody.

    Rows with a workspace are shown to superusers and to those whose reach holds it.
    """

    actions = None
    list_per_page = 50
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the rows of the workspaces that the person looks after."""
        rows = super().get_queryset(request)
        fields = {field.name for field in self.opts.get_fields()}
        if getattr(request.user, "is_superuser", False) or "workspace_id" not in fields:
            return rows
        return rows.filter(workspace_id__in=_reach[0](request.user) if _reach else ())

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Show what Django kept of a row; who may not look is not told either whether it exists."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return super().history_view(request, object_id, extra_context)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        del request, obj
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        del request, obj
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        del request, obj
        return False


def as_uuid(text: str) -> UUID | None:
    """Return the UUID that a search term is, None for any other text."""
    try:
        return UUID(text.strip())
    except ValueError:
        return None


def pretty_json(value: Any) -> SafeString:
    """Show JSON on several lines, escaped."""
    return format_html("<pre>{}</pre>", json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True))


class TypeFilter(admin.SimpleListFilter):
    """The known event types; asking the table for its distinct types would read all of it."""

    title = _("type")
    parameter_name = "type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        """Return the types."""
        del request, model_admin
        return [(cls.type_name, cls.type_name) for cls in all_event_classes()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Keep the events of the chosen type."""
        del request
        chosen = self.value()
        if not chosen:
            return queryset
        known = {cls.type_name for cls in all_event_classes()}
        return queryset.filter(type=chosen) if chosen in known else queryset.none()


@admin.register(OrderedEvent)
class OrderedEventAdmin(ReadOnlyAdmin):
    """Every event in log order. Personal text stays sealed here."""

    list_display = ("position", "recorded_at", "type", "stream_id", "version", "session_id", "actor")
    list_filter = (TypeFilter,)
    ordering = ("-position",)
    search_fields = ("stream_id",)
    search_help_text = _("A stream, session, event or workspace id, a trace id, or an actor")
    fields: ClassVar[tuple[str, ...]] = (
        "position",
        "type",
        "schema_version",
        "recorded_at",
        "stream_id",
        "version",
        "event_id",
        "workspace_id",
        "session_id",
        "causation_id",
        "actor",
        "trace_id",
        "key_id",
        "content",
        "leaf_hash",
    )
    readonly_fields = fields

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find events by the ids around them."""
        del request
        term = search_term.strip()
        if not term:
            return queryset, False
        uuid = as_uuid(term)
        found = Q(actor=term)
        if uuid is not None:
            found = Q(stream_id=uuid) | Q(session_id=uuid) | Q(event_id=uuid) | Q(workspace_id=uuid)
            found |= Q(trace_id=uuid.hex)
        return queryset.filter(found), False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the rows without their data, which the database could not decode where it was altered."""
        return super().get_queryset(request).defer("data")

    @admin.display(description=_("data"))
    def content(self, row: OrderedEvent) -> SafeString:
        """Show the stored JSON, or what stands in its place; sealed fields stay tokens."""
        stored = bytes(Event.objects.values_list("data", flat=True).get(pk=(row.stream_id, row.version)))
        try:
            return pretty_json(json.loads(stored))
        except ValueError:
            return pretty_json(stored.decode(errors="replace"))

    @admin.display(description=_("leaf hash"))
    def leaf_hash(self, row: OrderedEvent) -> str:
        """Show the leaf of the Merkle tree in hexadecimal."""
        return bytes(row.leaf).hex()


@admin.register(TreeHead)
class TreeHeadAdmin(ReadOnlyAdmin):
    """The signed tree heads: each stands for all events up to its size. Keep one elsewhere, to compare."""

    list_display = ("size", "signed_at", "root_hash")
    ordering = ("-size",)
    fields: ClassVar[tuple[str, ...]] = ("size", "signed_at", "root_hash", "checkpoint", "download")
    readonly_fields = fields

    def get_urls(self) -> list[URLPattern]:
        """Add the download of a checkpoint."""
        wrapped = self.admin_site.admin_view(self.checkpoint_view)
        return [
            path("<int:size>/checkpoint/", wrapped, name="eventstore_treehead_checkpoint"),
            *super().get_urls(),
        ]

    def checkpoint_view(self, request: HttpRequest, size: int) -> HttpResponse:
        """Return a signed head as the text that witnesses and `cartrita-verify --head` read."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = TreeHead.objects.filter(size=size).first() if size < 2**63 else None
        if row is None:
            raise Http404
        return HttpResponse(
            row.note.encode(),
            content_type="text/plain; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="head-{row.size}.txt"'},
        )

    @admin.display(description=_("root"))
    def root_hash(self, row: TreeHead) -> str:
        """Show the root of the Merkle tree in hexadecimal."""
        return bytes(row.root).hex()

    @admin.display(description=_("checkpoint"))
    def checkpoint(self, row: TreeHead) -> SafeString:
        """Show the signed note."""
        return format_html("<pre>{}</pre>", row.note)

    @admin.display(description=_("file"))
    def download(self, row: TreeHead) -> SafeString:
        """Return the way to the checkpoint as a file."""
        address = reverse("admin:eventstore_treehead_checkpoint", args=[row.size])
        return format_html('<a href="{}" download>{}</a>', address, _("Download the checkpoint"))
