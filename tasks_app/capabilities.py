"""How tools and agents have done lately.

The counters are those of days, so that they are a function of the events; what holds of the last 30 days is
added up when somebody asks, as of any time. They stand here and not with the tools because the outcomes of
tool calls are recorded by those who call, on the streams of runs; `cartrita.tools` keeps no rows.

The index tells no complexity and no resource intensity: nothing that is measured says how hard a tool is to
use or what it takes of the machine. A search that the agent loop makes by itself is no tool call: it stands
in `retrieval_metrics`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Max, QuerySet, Sum
from django.db.models.functions import Coalesce

from cartrita.eventstore.store import execute
from cartrita.tools.registry import Safety, Tool, all_tools
from tasks_app.models import ToolDayRow

DAYS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """How one definition of a tool has done; `version` is its hash.

    Rates are from 0 to 1; calls that were cancelled count as calls and as neither success nor failure. What
    nobody knows is None: averages without a call, category and safety of a definition that is no longer
    registered.
    """

    tool_name: str
    version: str
    category: str | None
    safety_level: Safety | None
    call_count_30d: int
    success_rate_30d: float | None
    avg_latency_ms: float | None
    avg_cost_tokens: float | None
    last_updated: datetime | None
    last_success: datetime | None
    last_failure: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRecord:
    """How an agent's runs that ended in the last 30 days did; runs that people stopped are left out.

    The medians (milliseconds from the start to the end, waiting included; tokens) are of those that answered,
    None without any.
    """

    runs: int
    success_rate: float
    p50_latency_ms: int | None
    p50_tokens: int | None


def capability_index(at: datetime, *, workspace_id: UUID | None = None) -> list[Capability]:
    """Return every definition that is registered or was called, ordered by name, as of `at`.

    It is about one workspace, or all of them. The 30 days are whole days (UTC), that of `at` the last one.
    """
    rows = ToolDayRow.objects.all()
    if workspace_id is not None:
        rows = rows.filter(workspace_id=workspace_id)
    return index_of(rows, at)


def index_of(rows: QuerySet[ToolDayRow], at: datetime) -> list[Capability]:
    """Return the index that these days make; see `capability_index`."""
    today = at.astimezone(UTC).date()
    past = rows.filter(day__lte=today).order_by().values("tool_name", "version")
    lately: dict[tuple[str, str], Mapping[str, Any]] = {
        (row["tool_name"], row["version"]): row
        for row in past.filter(day__gt=today - timedelta(days=DAYS)).annotate(
            **{f"{name}_30d": Coalesce(Sum(name), 0) for name in _SUMMED}
        )
    }
    seen: dict[tuple[str, str], Mapping[str, Any]] = {
        (row["tool_name"], row["version"]): row
        for row in past.annotate(**{f"newest_{name}": Max(name) for name in _NEWEST})
    }
    registered = {(tool.name, tool.definition_hash): tool for tool in all_tools()}
    return [
        _capability(name, version, lately.get((name, version), {}), seen.get((name, version), {}), registered)
        for name, version in _in_order({*registered, *seen}, registered)
    ]


def agent_record(workspace_id: UUID, at: datetime) -> dict[str, AgentRecord]:
    """Return how the agents did in a workspace in the 30 days before `at`, by name."""
    rows = execute(_AGENTS, [workspace_id, at - timedelta(days=DAYS), at]).fetchall()
    return {
        agent: AgentRecord(
            runs=runs, success_rate=answered / runs, p50_latency_ms=latency_ms, p50_tokens=tokens
        )
        for agent, runs, answered, latency_ms, tokens in rows
    }


_SUMMED = ("calls", "returned", "failed", "latency_ms", "cost_tokens")
_NEWEST = ("last_updated", "last_success", "last_failure")
_AGENTS = """
    select agent, count(*), count(*) filter (where answered),
        percentile_disc(0.5) within group (order by latency_ms) filter (where answered),
        percentile_disc(0.5) within group (order by tokens) filter (where answered)
    from (
        select agent, status = 'answered' as answered, prompt_tokens + completion_tokens as tokens,
            round(extract(epoch from finished_at - created_at) * 1000)::bigint as latency_ms
        from runs
        where workspace_id = %b::uuid and finished_at > %b::timestamptz and finished_at <= %b::timestamptz
            and status in ('answered', 'denied', 'failed')
    ) as ended
    group by agent order by agent
"""


def _in_order(
    keys: Iterable[tuple[str, str]], registered: dict[tuple[str, str], Tool]
) -> list[tuple[str, str]]:
    """Order by name; the definition that is registered comes before older ones."""
    return sorted(keys, key=lambda key: (key[0], key not in registered, key[1]))


def _capability(
    name: str,
    version: str,
    sums: Mapping[str, Any],
    newest: Mapping[str, Any],
    registered: dict[tuple[str, str], Tool],
) -> Capability:
    returned, failed = sums.get("returned_30d", 0), sums.get("failed_30d", 0)
    tool = registered.get((name, version))
    return Capability(
        tool_name=name,
        version=version,
        category=tool.category if tool else None,
        safety_level=tool.safety if tool else None,
        call_count_30d=sums.get("calls_30d", 0),
        success_rate_30d=_ratio(returned, returned + failed),
        avg_latency_ms=_ratio(sums.get("latency_ms_30d", 0), returned + failed),
        avg_cost_tokens=_ratio(sums.get("cost_tokens_30d", 0), returned),
        last_updated=newest.get("newest_last_updated"),
        last_success=newest.get("newest_last_success"),
        last_failure=newest.get("newest_last_failure"),
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
