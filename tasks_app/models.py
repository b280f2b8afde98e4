"""Read models of plans, tasks, edges and runs; they follow the log."""

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
    """A task of a plan. A task that waits for others is blocked; `not_before` is when it is tried again."""

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
    kind = models.TextField(default="work", db_default="work")
    not_before = models.DateTimeField(null=True)
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


class TaskEdgeRow(models.Model):
    """What one task of a plan means for another: the second comes after the first."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    session_id = models.UUIDField()
    plan_id = models.UUIDField()
    from_task = models.UUIDField()
    to_task = models.UUIDField()
    relation_type = models.TextField()
    weight = models.DecimalField(max_digits=3, decimal_places=2, default=1)
    created_at = models.DateTimeField()

    class Meta:
        db_table = "task_edges"
        verbose_name = "edge"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["from_task", "to_task", "relation_type"], name="task_edge_once"),
            models.CheckConstraint(
                condition=~models.Q(from_task=models.F("to_task")), name="task_edge_joins_two"
            ),
            models.CheckConstraint(
                condition=models.Q(relation_type__in=["depends_on", "blocks", "enables", "refines"]),
                name="task_edge_relation_known",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["plan_id"], name="task_edges_by_plan")]

    def __str__(self) -> str:
        return f"edge {self.id}"


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
