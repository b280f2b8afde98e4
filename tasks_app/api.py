"""REST: plans and runs."""

from dataclasses import asdict
from typing import Any, get_args
from uuid import UUID

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts.authentication import caller
from cartrita.http.conditional import entity_tag
from cartrita.http.pagination import PAGE_PARAMETERS, page_parameters
from cartrita.http.views import ApiView
from tasks_app import queries
from tasks_app.plan import Criticism, PlanStatus, Relation, TaskKind, TaskStatus
from tasks_app.plan_view import WaitsFor
from tasks_app.run import ActKind, Delivery, RunStatus

PLAN_STATUSES = [one for one in get_args(PlanStatus) if one != "new"]
TASK_STATUSES = list(get_args(TaskStatus))
RUN_STATUSES = list(get_args(RunStatus))
ACT_KINDS = list(get_args(ActKind))
COSTS_HELP = "Micro-units by currency."


class ActVerdict(serializers.Serializer[Any]):
    """A decision; `reason` is what people are told where it did not permit the act."""

    decision_id = serializers.UUIDField()
    outcome = serializers.CharField()
    rule = serializers.CharField(allow_blank=True)
    permitted = serializers.BooleanField()
    act = serializers.ChoiceField(choices=["plan", *ACT_KINDS])
    reason = serializers.CharField(allow_blank=True)


class CheckEntry(serializers.Serializer[Any]):
    """What a critic looked at; `detail` is empty until the plan's answer was given."""

    name = serializers.CharField()
    passed = serializers.BooleanField()
    detail = serializers.CharField(allow_blank=True)


class EdgeEntry(serializers.Serializer[Any]):
    """A task that comes first, and on what terms; `weight` is in hundredths."""

    task_id = serializers.UUIDField()
    relation = serializers.ChoiceField(choices=get_args(Relation))
    weight = serializers.IntegerField()


class BillAmounts(serializers.Serializer[Any]):
    """What something comes to in one case of ten, in half of them and in nine of ten, at most."""

    p10 = serializers.IntegerField()
    p50 = serializers.IntegerField()
    p90 = serializers.IntegerField()


class BillMoney(BillAmounts):
    """Amounts in micro-units of `currency`."""

    currency = serializers.CharField()


class ForeseenAct(serializers.Serializer[Any]):
    """An act that policy would hold up or deny; not `sure` where its arguments were not known yet."""

    act = serializers.ChoiceField(choices=ACT_KINDS)
    subject = serializers.CharField(allow_blank=True, help_text="The model or tool.")
    outcome = serializers.CharField()
    rule = serializers.CharField(allow_blank=True)
    sure = serializers.BooleanField()


class BillLineEntry(serializers.Serializer[Any]):
    """What a task was expected to use; it rests on `samples` such tasks, without any on an estimate."""

    task_id = serializers.UUIDField()
    agent = serializers.CharField()
    tool = serializers.CharField(allow_blank=True)
    model = serializers.CharField(allow_blank=True)
    samples = serializers.IntegerField()
    tokens = BillAmounts()
    cost = BillMoney()
    foreseen = ForeseenAct(many=True)


class BillEntry(serializers.Serializer[Any]):
    """What a plan was expected to use before it began; `estimated` tasks rest on no past ones."""

    tasks = serializers.IntegerField()
    tokens = BillAmounts()
    costs = BillMoney(many=True, help_text="One for each currency.")
    approvals = serializers.IntegerField(help_text="Acts that would have to be approved.")
    throttles = serializers.IntegerField(help_text="Acts that would have to wait.")
    denials = serializers.IntegerField(help_text="Acts that would be denied.")
    samples = serializers.IntegerField(help_text="The past tasks that it rests on.")
    estimated = serializers.IntegerField()
    lines = BillLineEntry(many=True)


class PlanTask(serializers.Serializer[Any]):
    """A task; `blocked_by` are the open tasks that it waits for, `depends_on` all that it comes after."""

    id = serializers.UUIDField()
    parent_id = serializers.UUIDField(allow_null=True)
    kind = serializers.ChoiceField(choices=get_args(TaskKind))
    intent = serializers.CharField(allow_blank=True)
    agent = serializers.CharField()
    tool = serializers.CharField(allow_blank=True, help_text="The tool that the task is one call of.")
    priority = serializers.IntegerField(min_value=1, max_value=10)
    status = serializers.ChoiceField(choices=TASK_STATUSES)
    waits_for = serializers.ChoiceField(choices=get_args(WaitsFor))
    blocked_by = serializers.ListField(child=serializers.UUIDField())
    depends_on = EdgeEntry(many=True)
    run_id = serializers.UUIDField(allow_null=True, help_text="Its last attempt.")
    attempts = serializers.IntegerField()
    next_try_at = serializers.DateTimeField(allow_null=True)
    estimated_tokens = serializers.IntegerField()
    budget_tokens = serializers.IntegerField()
    actual_tokens = serializers.IntegerField()
    costs = serializers.DictField(child=serializers.IntegerField(), help_text=COSTS_HELP)
    verdict = ActVerdict(allow_null=True, help_text="The newest decision of its last attempt.")
    approval_id = serializers.UUIDField(allow_null=True, help_text="The approval that it waits for.")
    criticism = serializers.ChoiceField(choices=get_args(Criticism), allow_null=True)
    checks = CheckEntry(many=True)
    code = serializers.CharField(allow_blank=True, help_text="Why it failed, is tried again or was left out.")
    error = serializers.CharField(allow_null=True)
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    parts = serializers.SerializerMethodField(help_text="The tasks that it consists of.")

    @extend_schema_field({"type": "array", "items": {"$ref": "#/components/schemas/PlanTask"}})
    def get_parts(self, task: Any) -> Any:
        """Describe the parts: tasks as this one."""
        return task["parts"]


class PlanEntry(serializers.Serializer[Any]):
    """A plan without its tasks; goals, which nobody works on, are not counted."""

    id = serializers.UUIDField()
    session_id = serializers.UUIDField()
    message_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=PLAN_STATUSES)
    goal = serializers.CharField(allow_blank=True)
    planner = serializers.CharField()
    version = serializers.IntegerField()
    task_count = serializers.IntegerField()
    agents = serializers.ListField(child=serializers.CharField())
    estimated_tokens = serializers.IntegerField()
    actual_tokens = serializers.IntegerField()
    costs = serializers.DictField(child=serializers.IntegerField(), help_text=COSTS_HELP)
    refusal = serializers.CharField(allow_null=True)
    created_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


class PlanSummary(PlanEntry):
    """A plan as a list shows it."""

    tasks_by_status = serializers.DictField(child=serializers.IntegerField())


class PlanDetail(PlanEntry):
    """A plan with its tasks as a tree: the root, with its parts in it."""

    ended_count = serializers.IntegerField()
    budget_tokens = serializers.IntegerField()
    bill = BillEntry(allow_null=True, help_text="What it was expected to use before it began.")
    asked_count = serializers.IntegerField(help_text="Acts that people were asked about.")
    throttled_count = serializers.IntegerField(help_text="Acts that had to wait for a time.")
    denied_count = serializers.IntegerField(help_text="Acts that were denied.")
    verdict = ActVerdict(allow_null=True, help_text="The newest decision on the plan as a whole.")
    approval_id = serializers.UUIDField(allow_null=True, help_text="The approval that it waits for.")
    retry_after = serializers.DateTimeField(allow_null=True)
    criticism = serializers.ChoiceField(choices=get_args(Criticism), allow_null=True)
    checks = CheckEntry(many=True)
    revisions = serializers.IntegerField()
    accepted_at = serializers.DateTimeField(allow_null=True)
    tasks = PlanTask(many=True)


class PlanPage(serializers.Serializer[Any]):
    """Plans, newest first."""

    items = PlanSummary(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class RunEntry(serializers.Serializer[Any]):
    """An attempt at a task. Money is in micro-units of `currency`."""

    id = serializers.UUIDField()
    plan_id = serializers.UUIDField()
    task_id = serializers.UUIDField()
    session_id = serializers.UUIDField()
    attempt = serializers.IntegerField()
    agent = serializers.CharField()
    status = serializers.ChoiceField(choices=RUN_STATUSES)
    code = serializers.CharField(allow_blank=True)
    model = serializers.CharField(allow_blank=True)
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    cost_micros = serializers.IntegerField()
    currency = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)


class RunSummary(RunEntry):
    """An attempt as a list shows it."""

    steps = serializers.IntegerField()


class RunPage(serializers.Serializer[Any]):
    """Attempts, oldest first."""

    items = RunSummary(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class ActEntry(serializers.Serializer[Any]):
    """A decision on the act of a step, and how the act ended; `ended` is empty while it has not."""

    step = serializers.IntegerField()
    attempt = serializers.IntegerField()
    act = serializers.ChoiceField(choices=ACT_KINDS)
    subject = serializers.CharField(allow_blank=True, help_text="The model or tool.")
    decision_id = serializers.UUIDField()
    outcome = serializers.CharField()
    rule = serializers.CharField(allow_blank=True)
    permitted = serializers.BooleanField()
    reason = serializers.CharField(allow_blank=True)
    approval_id = serializers.UUIDField(allow_null=True)
    retry_after = serializers.DateTimeField(allow_null=True)
    delivery = serializers.ChoiceField(choices=get_args(Delivery))
    downshifted_from = serializers.CharField(allow_blank=True)
    fell_back_from = serializers.CharField(allow_blank=True)
    edited_by = serializers.CharField(allow_blank=True)
    decided_at = serializers.DateTimeField()
    ended = serializers.CharField(allow_blank=True)
    code = serializers.CharField(allow_blank=True)
    tokens = serializers.IntegerField(allow_null=True)
    cost_micros = serializers.IntegerField(allow_null=True)
    currency = serializers.CharField(allow_blank=True)
    latency_ms = serializers.FloatField(allow_null=True, help_text="Of the act itself.")
    ended_at = serializers.DateTimeField(allow_null=True)
    content = serializers.DictField(
        allow_null=True, help_text="What was sealed of its outcome; null until the plan's answer was given."
    )


class RunDetail(RunEntry):
    """An attempt with its acts in order; `readable` tells whether content is given."""

    loop_version = serializers.IntegerField()
    supported = serializers.BooleanField(allow_null=True)
    readable = serializers.BooleanField()
    answer = serializers.CharField(allow_null=True)
    citations = serializers.ListField(child=serializers.DictField(), allow_null=True)
    acts = ActEntry(many=True)


class TaskEdge(serializers.Serializer[Any]):
    """What one task means for another: the second comes after the first."""

    id = serializers.UUIDField()
    plan_id = serializers.UUIDField()
    from_task = serializers.UUIDField()
    to_task = serializers.UUIDField()
    relation = serializers.ChoiceField(choices=get_args(Relation))
    weight = serializers.FloatField(help_text="From 0 to 1.")
    created_at = serializers.DateTimeField()


class TaskEdgePage(serializers.Serializer[Any]):
    """Edges, oldest first."""

    items = TaskEdge(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class SnapshotEntry(serializers.Serializer[Any]):
    """A node that a plan passed: it is the plan after `version` events."""

    id = serializers.UUIDField()
    plan_id = serializers.UUIDField()
    session_id = serializers.UUIDField()
    version = serializers.IntegerField()
    node_name = serializers.CharField()
    task_id = serializers.UUIDField(allow_null=True, help_text="Whom the node is about.")
    agent_state = serializers.DictField()
    cost_summary = serializers.DictField()
    performance_metrics = serializers.DictField(help_text="Milliseconds.")
    created_at = serializers.DateTimeField()


class SnapshotPage(serializers.Serializer[Any]):
    """Nodes in order."""

    items = SnapshotEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class SnapshotDetail(SnapshotEntry):
    """A node with the plan's state at it, without what people wrote."""

    state = serializers.DictField()


class PlanOne(ApiView):
    """One plan."""

    @extend_schema(operation_id="plans_get", responses=PlanDetail)
    def get(self, request: Request, plan_id: UUID) -> Response:
        """Return a plan with its tasks as a tree."""
        found = queries.plan(plan_id, caller(request))
        return Response(asdict(found), headers=entity_tag(found.version))


class SessionPlans(ApiView):
    """The plans of a session."""

    @extend_schema(operation_id="plans_list", parameters=PAGE_PARAMETERS, responses=PlanPage)
    def get(self, request: Request, session_id: UUID) -> Response:
        """List the plans of a session, newest first."""
        cursor, limit = page_parameters(request)
        page = queries.plans_of(session_id, caller(request), cursor=cursor, limit=limit)
        return Response({"items": page.items, "next_cursor": page.next_cursor})


class PlanRuns(ApiView):
    """The attempts at a plan's tasks."""

    @extend_schema(operation_id="runs_list", parameters=PAGE_PARAMETERS, responses=RunPage)
    def get(self, request: Request, plan_id: UUID) -> Response:
        """List the attempts at a plan's tasks, oldest first."""
        cursor, limit = page_parameters(request)
        page = queries.runs_of(plan_id, caller(request), cursor=cursor, limit=limit)
        return Response({"items": page.items, "next_cursor": page.next_cursor})


class PlanEdges(ApiView):
    """What the tasks of a plan mean for one another."""

    @extend_schema(operation_id="plan_edges_list", parameters=PAGE_PARAMETERS, responses=TaskEdgePage)
    def get(self, request: Request, plan_id: UUID) -> Response:
        """List the edges between a plan's tasks, oldest first."""
        cursor, limit = page_parameters(request)
        page = queries.edges_of(plan_id, caller(request), cursor=cursor, limit=limit)
        return Response({"items": page.items, "next_cursor": page.next_cursor})


class PlanSnapshots(ApiView):
    """The nodes that a plan passed."""

    @extend_schema(operation_id="plan_snapshots_list", parameters=PAGE_PARAMETERS, responses=SnapshotPage)
    def get(self, request: Request, plan_id: UUID) -> Response:
        """List the nodes that a plan passed, in order: planned, ends of tasks, verdicts, its own end."""
        cursor, limit = page_parameters(request)
        page = queries.snapshots_of(plan_id, caller(request), cursor=cursor, limit=limit)
        return Response({"items": page.items, "next_cursor": page.next_cursor})


class PlanSnapshot(ApiView):
    """A plan's state at a node."""

    @extend_schema(operation_id="plan_snapshots_get", responses=SnapshotDetail)
    def get(self, request: Request, plan_id: UUID, version: int) -> Response:
        """Return a plan's state at a node, without what people wrote."""
        return Response(queries.snapshot_at(plan_id, min(version, 2**31 - 1), caller(request)))


class RunOne(ApiView):
    """One attempt."""

    @extend_schema(operation_id="runs_get", responses=RunDetail)
    def get(self, request: Request, run_id: UUID) -> Response:
        """Return an attempt with its acts in order."""
        return Response(asdict(queries.run(run_id, caller(request))))
