"""What became of turns, plans, runs, models, tools and decisions, counted once for all processes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import LiteralString

from cartrita.eventstore import Event, RecordedEvent, arrays
from cartrita.eventstore.canonical import canonical_json
from cartrita.eventstore.projections import following
from cartrita.eventstore.store import execute
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.orchestrator.models import MetricCount
from cartrita.tools.events import ToolFailed, ToolReturned
from governance.approval import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalRequested,
    ApprovalVoided,
)
from governance.decision import DecisionMade
from sessions_app.session import MessagePosted, ReplyPosted
from tasks_app.plan import PlanCompleted, PlanRefused
from tasks_app.run import RunFinished

# The name of a metric and the values of its labels, in the order of cartrita.orchestrator.metrics.COUNTS.
Count = tuple[str, tuple[str, ...]]

_APPROVALS: dict[type[Event], str] = {
    ApprovalRequested: "requested",
    ApprovalGranted: "granted",
    ApprovalDenied: "denied",
    ApprovalExpired: "expired",
    ApprovalVoided: "void",
}
_COUNTED: tuple[type[Event], ...] = (
    MessagePosted,
    ReplyPosted,
    PlanCompleted,
    PlanRefused,
    RunFinished,
    ModelAnswered,
    ModelFailed,
    ToolReturned,
    ToolFailed,
    DecisionMade,
    *_APPROVALS,
)


@following("metric_counts", *_COUNTED, tables=[MetricCount])
def project_metric_counts(batch: Sequence[RecordedEvent]) -> None:
    """Keep `orchestrator_metric_count`."""
    counted: Counter[str] = Counter()
    for recorded in batch:
        for (name, labels), value in _counts_of(recorded):
            counted[canonical_json([name, *labels]).decode()] += value
    execute(_COUNT, [arrays.texts(list(counted)), arrays.integers8(list(counted.values()))])


_COUNT: LiteralString = """
    insert into orchestrator_metric_count as held (key, value) select * from unnest(%b::text[], %b::int8[])
    on conflict (key) do update set value = held.value + excluded.value
"""


def _counts_of(recorded: RecordedEvent) -> Iterator[tuple[Count, int]]:
    match recorded.event:
        case MessagePosted(role="user", context=False):
            yield ("messages", ()), 1
        case ReplyPosted(outcome=outcome):
            yield ("turns", (outcome,)), 1
        case PlanCompleted(status=status):
            yield ("plans", (status,)), 1
        case PlanRefused():
            yield ("plans", ("refused",)), 1
        case RunFinished(status=status):
            yield ("runs", (recorded.actor.removeprefix("agent:"), status)), 1
        case ModelAnswered() | ModelFailed() as event:
            ended = event.code if isinstance(event, ModelFailed) else "answered"
            yield ("model_calls", (event.model, ended)), 1
            yield ("model_tokens", (event.model, "input")), event.prompt_tokens
            yield ("model_tokens", (event.model, "output")), event.completion_tokens
            yield ("model_cost", (event.model, event.currency)), event.cost_micros
            yield ("model_seconds", (event.model,)), event.latency_ms
        case ToolReturned() | ToolFailed() as event:
            # Without a definition it is whatever a model or a person took for the name of a tool.
            tool = event.tool if event.definition_hash else "unknown"
            ended = event.code if isinstance(event, ToolFailed) else "returned"
            yield ("tool_calls", (tool, ended)), 1
            yield ("tool_seconds", (tool,)), event.latency_ms
        case DecisionMade(subject_kind=kind, outcome=outcome):
            yield ("decisions", (kind, outcome)), 1
        case event if ended := _APPROVALS.get(type(event), ""):
            yield ("approvals", (ended,)), 1
