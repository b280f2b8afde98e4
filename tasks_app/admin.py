"""Read-only pages of plans, tasks and runs; each row leads to its events."""

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from cartrita.eventstore import unseal_or_empty
from cartrita.eventstore.admin import ReadOnlyAdmin
from tasks_app.models import PlanRow, RunRow, TaskRow


@admin.register(PlanRow)
class PlanAdmin(ReadOnlyAdmin):
    """Plans, newest first."""

    list_display = (
        "id",
        "goal_text",
        "status",
        "planner",
        "actual_cost_tokens",
        "created_at",
        "completed_at",
    )
    list_filter = ("status", "planner")
    ordering = ("-created_at",)

    @admin.display(description=_("goal"))
    def goal_text(self, row: PlanRow) -> str:
        """Return the goal's beginning."""
        return unseal_or_empty(row.key_id, row.goal)[:120]


@admin.register(TaskRow)
class TaskAdmin(ReadOnlyAdmin):
    """Tasks, newest first."""

    list_display = (
        "id",
        "intent_text",
        "agent_assigned",
        "status",
        "priority",
        "actual_cost_tokens",
        "updated_at",
    )
    list_filter = ("status", "agent_assigned")
    ordering = ("-created_at",)

    @admin.display(description=_("intent"))
    def intent_text(self, row: TaskRow) -> str:
        """Return the intent's beginning."""
        return unseal_or_empty(row.key_id, row.intent)[:120]


@admin.register(RunRow)
class RunAdmin(ReadOnlyAdmin):
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
