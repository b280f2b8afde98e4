"""Read models of plans, tasks, edges, runs, bills, snapshots and tools; they follow the log."""

from typing import ClassVar

from django.db import models

from cartrita.eventstore.fields import SealedTextField


class PlanRow(models.Model):
    """What a plan has come to, beside what its first bill foresaw.

    `estimated_*` are percentiles of the bill, None without one; money is in micro-units of
    `estimated_currency`, and None where the bill has several currencies. `billed_samples` is on how many
    tasks that ended before the line with the fewest rests.
    """

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
    estimated_tokens_p10 = models.BigIntegerField(null=True)
    estimated_tokens_p50 = models.BigIntegerField(null=True)
    estimated_tokens_p90 = models.BigIntegerField(null=True)
    estimated_micros_p10 = models.BigIntegerField(null=True)
    estimated_micros_p50 = models.BigIntegerField(null=True)
    estimated_micros_p90 = models.BigIntegerField(null=True)
    estimated_currency = models.TextField(null=True)
    billed_samples = models.IntegerField(null=True)
    created_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "plans"
        verbose_name = "plan"
        indexes: ClassVar = [
            models.Index(fields=["session_id", "created_at"], name="plans_by_session"),
            models.Index(
                fields=["workspace_id", "completed_at"],
                name="plans_billed",
                condition=models.Q(estimated_tokens_p90__isnull=False),
            ),
        ]

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
            models.Index(fields=["workspace_id", "finished_at"], name="runs_by_workspace_end"),
        ]

    def __str__(self) -> str:
        return f"run {self.id}"


class BillLineRow(models.Model):
    """What a task was expected to use when it was billed first; `id` is the task's.

    `tool` is the one that the task is a call of, empty for an agent's own work. `prompt_tokens` were counted,
    `output_tokens` bounds each answer; the percentiles are of all attempts together.
    """

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    session_id = models.UUIDField()
    plan_id = models.UUIDField()
    agent = models.TextField()
    tool = models.TextField()
    model = models.TextField()
    samples = models.IntegerField()
    prompt_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    tokens_p10 = models.BigIntegerField()
    tokens_p50 = models.BigIntegerField()
    tokens_p90 = models.BigIntegerField()
    micros_p10 = models.BigIntegerField()
    micros_p50 = models.BigIntegerField()
    micros_p90 = models.BigIntegerField()
    currency = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        db_table = "plan_bill_lines"
        verbose_name = "line of a bill"
        verbose_name_plural = "lines of bills"
        indexes: ClassVar = [
            models.Index(fields=["workspace_id", "agent", "tool", "-created_at"], name="bill_lines_by_work"),
            models.Index(fields=["plan_id"], name="bill_lines_by_plan"),
        ]

    def __str__(self) -> str:
        return f"bill of task {self.id}"


class SnapshotRow(models.Model):
    """A plan's state at a node of it: planned, the end of a task, a verdict of the critic, its own end.

    It is the state after `version` events. What people wrote is left out of `snapshot_json`: the event log
    has it, sealed, and `tasks_app.snapshots.snapshot_of` reads it from there. `task_id` is whom the node is
    about. `performance_metrics` hold milliseconds between the records.
    """

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    session_id = models.UUIDField()
    plan_id = models.UUIDField()
    version = models.IntegerField()
    node_name = models.TextField()
    task_id = models.UUIDField(null=True)
    snapshot_json = models.JSONField()
    agent_state = models.JSONField()
    cost_summary = models.JSONField()
    performance_metrics = models.JSONField()
    created_at = models.DateTimeField()

    class Meta:
        db_table = "graph_snapshots"
        verbose_name = "snapshot"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["plan_id", "version"], name="graph_snapshot_once")
        ]
        indexes: ClassVar = [
            models.Index(fields=["session_id", "created_at"], name="graph_snapshots_by_session")
        ]

    def __str__(self) -> str:
        return f"snapshot of plan {self.plan_id} at {self.version}"


class ToolDayRow(models.Model):
    """What the calls of one definition of a tool came to in a workspace on one day (UTC).

    `version` is the definition's hash. Calls that were cancelled say nothing of the tool: they are in `calls`
    and `cancelled` alone. `latency_ms` sums those that returned or failed, `cost_tokens` those that returned.
    """

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    tool_name = models.TextField()
    version = models.TextField()
    day = models.DateField()
    calls = models.IntegerField(default=0)
    returned = models.IntegerField(default=0)
    failed = models.IntegerField(default=0)
    cancelled = models.IntegerField(default=0)
    latency_ms = models.BigIntegerField(default=0)
    cost_tokens = models.BigIntegerField(default=0)
    last_updated = models.DateTimeField()
    last_success = models.DateTimeField(null=True)
    last_failure = models.DateTimeField(null=True)

    class Meta:
        db_table = "tool_capability_days"
        verbose_name = "day of a tool"
        verbose_name_plural = "days of tools"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["workspace_id", "tool_name", "version", "day"], name="tool_capability_day_once"
            )
        ]
        indexes: ClassVar = [models.Index(fields=["tool_name", "version", "day"], name="tool_days_by_tool")]

    def __str__(self) -> str:
        return f"{self.tool_name} on {self.day}"
