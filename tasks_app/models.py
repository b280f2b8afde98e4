"""Read models of plans, tasks and runs; they follow the log."""

from typing import ClassVar

from django.db import models

from cartrita.eventstore.fields import SealedTextField


class PlanRow(models.Model):
    """What a plan has come to."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    session_id = models.UUIDField()
    message_id = models.UUIDField()
    root_task_id = models.UUIDField()
    key_id = models.UUIDField(null=True)
    goal = SealedTextField()
    planner = models.TextField()
    status = models.TextField()
    estimated_cost_tokens = models.BigIntegerField(default=0)
    actual_cost_tokens = models.BigIntegerField(default=0)
    refusal = models.TextField(null=True)
    version = models.IntegerField()
    created_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "plans"
        verbose_name = "plan"
        indexes: ClassVar = [models.Index(fields=["session_id", "created_at"], name="plans_by_session")]

    def __str__(self) -> str:
        return f"plan {self.id}"


class TaskRow(models.Model):
    """A task of a plan."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    session_id = models.UUIDField()
    plan_id = models.UUIDField()
    parent_id = models.UUIDField(null=True)
    key_id = models.UUIDField(null=True)
    intent = SealedTextField()
    spec_json = SealedTextField()
    cost_budget_tokens = models.BigIntegerField(default=5000)
    priority = models.SmallIntegerField(default=5)
    status = models.TextField()
    estimated_cost_tokens = models.BigIntegerField(default=0)
    actual_cost_tokens = models.BigIntegerField(default=0)
    agent_assigned = models.TextField()
    error_message = models.TextField(null=True)
    retry_count = models.IntegerField(default=0)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "tasks"
        verbose_name = "task"
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(parent_id__isnull=True) | ~models.Q(parent_id=models.F("id")),
                name="task_is_not_its_own_parent",
            ),
            models.CheckConstraint(
                condition=models.Q(priority__gte=1, priority__lte=10), name="task_priority_1_to_10"
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["session_id", "status"], name="tasks_by_session_status"),
            models.Index(fields=["parent_id"], name="tasks_by_parent"),
            models.Index(fields=["agent_assigned", "status"], name="tasks_by_agent_status"),
            models.Index(fields=["priority", "status"], name="tasks_by_priority_status"),
            models.Index(fields=["plan_id"], name="tasks_by_plan"),
        ]

    def __str__(self) -> str:
        return f"task {self.id}"


class RunRow(models.Model):
    """An attempt at a task."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    session_id = models.UUIDField()
    plan_id = models.UUIDField()
    task_id = models.UUIDField()
    attempt = models.IntegerField()
    agent = models.TextField()
    status = models.TextField()
    steps = models.IntegerField(default=0)
    model = models.TextField(default="")
    prompt_tokens = models.BigIntegerField(default=0)
    completion_tokens = models.BigIntegerField(default=0)
    cost_micros = models.BigIntegerField(default=0)
    currency = models.TextField(default="USD")
    error_code = models.TextField(default="")
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "runs"
        verbose_name = "run"
        indexes: ClassVar = [
            models.Index(fields=["session_id", "created_at"], name="runs_by_session"),
            models.Index(fields=["task_id"], name="runs_by_task"),
        ]

    def __str__(self) -> str:
        return f"run {self.id}"
