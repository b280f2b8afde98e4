"""Read-only pages of bills, snapshots and of how tools do; none of them shows what people wrote."""

from dataclasses import fields
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from cartrita.eventstore.admin import ReadOnlyAdmin
from tasks_app.admin import LinkedAdmin
from tasks_app.capabilities import Capability, index_of
from tasks_app.models import BillLineRow, SnapshotRow, ToolDayRow


@admin.register(BillLineRow)
class BillLineAdmin(LinkedAdmin):
    """What tasks were expected to use, the newest first."""

    list_display = (
        "id",
        "agent",
        "tool",
        "model",
        "samples",
        "tokens_p10",
        "tokens_p50",
        "tokens_p90",
        "micros_p50",
        "currency",
        "created_at",
    )
    list_filter = ("agent", "tool")
    ordering = ("-created_at",)

    def stream_id(self, row: BillLineRow) -> UUID:
        """Return the plan, whose stream holds the bill."""
        return row.plan_id


@admin.register(SnapshotRow)
class SnapshotAdmin(LinkedAdmin):
    """The states of plans at their nodes, the newest first."""

    list_display = ("plan_id", "version", "node_name", "cost_summary", "performance_metrics", "created_at")
    list_filter = ("node_name",)
    ordering = ("-created_at", "-version")

    def stream_id(self, row: SnapshotRow) -> UUID:
        """Return the plan."""
        return row.plan_id


@admin.register(ToolDayRow)
class ToolDayAdmin(ReadOnlyAdmin):
    """How tools did in the last 30 days, above the days that this is made of."""

    change_list_template = "admin/tasks_app/tooldayrow/change_list.html"
    list_display = ("day", "tool_name", "calls", "returned", "failed", "cancelled", "last_failure")
    list_filter = ("tool_name",)
    ordering: ClassVar = ("-day", "tool_name", "version")

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Show the index of the workspaces that the person looks after, and its days."""
        index = index_of(self.get_queryset(request), timezone.now())
        heads = [field.name for field in fields(Capability)]
        context = {
            "index_title": _("The last 30 days"),
            "index_heads": [head.replace("_", " ") for head in heads],
            "index_rows": [[_cell(getattr(one, head)) for head in heads] for one in index],
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})


def _cell(value: Any) -> Any:
    if value is None:
        return "–"
    return round(value, 3) if isinstance(value, float) else value
