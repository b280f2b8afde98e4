"""Read-only pages of plans, tasks and runs, without what people wrote; each row leads to its events."""

from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from cartrita.eventstore.admin import ReadOnlyAdmin
from tasks_app.models import PlanRow, RunRow, TaskEdgeRow, TaskRow

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise as StrPromise


class LinkedAdmin(ReadOnlyAdmin):
    """A page whose rows lead to the events that made them."""

    readonly_fields: ClassVar[tuple[str, ...]] = ("its_events",)

    @admin.display(description=_("events"))
    def its_events(self, row: Any) -> SafeString:
        """Link to the events of the row's stream."""
        address = reverse("admin:eventstore_orderedevent_changelist")
        return format_html('<a href="{}?q={}">{}</a>', address, self.stream_id(row), _("Show events"))

    def stream_id(self, row: Any) -> UUID:
        """Return the stream that the row is made of."""
        stream_id: UUID = row.id
        return stream_id


@admin.register(PlanRow)
class PlanAdmin(LinkedAdmin):
    """Plans, newest first."""

    list_display = (
        "id",
        "status",
        "planner",
        "actual_cost_tokens",
        "created_at",
        "completed_at",
    )
    list_filter = ("status", "planner")
    ordering = ("-created_at",)
    exclude = ("goal",)
    readonly_fields: ClassVar[tuple[str, ...]] = ("edges", "its_page", "its_events")

    @admin.display(description=_("page"))
    def its_page(self, plan: PlanRow) -> SafeString:
        """Link to the plan's page, which whoever may read its session sees."""
        return format_html('<a href="{}">{}</a>', reverse("plan-page", args=[plan.id]), _("Show the plan"))

    @admin.display(description=_("edges"))
    def edges(self, plan: PlanRow) -> "SafeString | StrPromise":
        """Show which of the plan's tasks comes after which, and on what terms."""
        edges = list(TaskEdgeRow.objects.filter(plan_id=plan.id).order_by("created_at", "id"))
        if not edges:
            return _("Its tasks do not wait for one another.")
        tasks = {task.id: task for task in TaskRow.objects.filter(plan_id=plan.id)}
        head = (_("first"), _("relation"), _("then"), _("weight"))
        return format_html(
            "<table><caption>{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table>",
            _("Which task comes after which"),
            format_html_join("", '<th scope="col">{}</th>', ((each,) for each in head)),
            format_html_join(
                "",
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                (
                    (
                        _named(tasks[edge.from_task]),
                        edge.relation_type,
                        _named(tasks[edge.to_task]),
                        edge.weight,
                    )
                    for edge in edges
                ),
            ),
        )


@admin.register(TaskRow)
class TaskAdmin(LinkedAdmin):
    """Tasks, newest first."""

    list_display = (
        "id",
        "agent_assigned",
        "status",
        "priority",
        "actual_cost_tokens",
        "updated_at",
    )
    list_filter = ("status", "agent_assigned")
    ordering = ("-created_at",)
    exclude = ("intent", "spec_json")

    def stream_id(self, row: TaskRow) -> UUID:
        """Return the plan: its tasks' events are in its stream."""
        return row.plan_id


@admin.register(RunRow)
class RunAdmin(LinkedAdmin):
    """Runs, newest first."""

    list_display = (
        "id",
        "agent",
        "attempt",
        "status",
        "model",
        "steps",
        "prompt_tokens",
        "completion_tokens",
        "created_at",
    )
    list_filter = ("status", "agent", "model")
    ordering = ("-created_at",)


def _named(task: TaskRow) -> SafeString:
    """Link to a task by its agent and status; what it is about is sealed."""
    address = reverse("admin:tasks_app_taskrow_change", args=[task.id])
    return format_html('<a href="{}">{} ({})</a>', address, task.agent_assigned, task.status)
