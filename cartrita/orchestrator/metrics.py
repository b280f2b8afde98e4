"""Metrics of the installation: counts of what was recorded, and how the log, approvals and budgets stand."""

import json
import logging
from collections.abc import Iterator
from typing import Any, Final

from django.db import Error, connection, transaction
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from cartrita.eventstore.aio import pool_statistics
from cartrita.http.metrics import KEPT_SECONDS, register_gauges
from cartrita.orchestrator.models import MetricCount
from cartrita.streaming.hub import open_sockets

logger = logging.getLogger(__name__)

# Metrics of MetricCount: what they tell, their labels, and the unit of a value as it is stored.
COUNTS: Final[dict[str, tuple[str, tuple[str, ...], float]]] = {
    "messages": ("Messages of people.", (), 1),
    "turns": ("Messages that were replied to, by outcome.", ("outcome",), 1),
    "plans": ("Plans that ended, by outcome.", ("outcome",), 1),
    "runs": ("Runs of agents that ended, by outcome.", ("agent", "outcome"), 1),
    "model_calls": ("Calls of models, by outcome.", ("model", "outcome"), 1),
    "model_tokens": ("Tokens that models read and wrote.", ("model", "direction"), 1),
    "model_cost": ("Money that models cost.", ("model", "currency"), 1e-6),
    "model_seconds": ("Time that calls of models took.", ("model",), 1e-3),
    "tool_calls": ("Calls of tools, by outcome.", ("tool", "outcome"), 1),
    "tool_seconds": ("Time that calls of tools took.", ("tool",), 1e-3),
    "decisions": ("Decisions of governance, by what they are about and outcome.", ("kind", "outcome"), 1),
    "approvals": ("Approvals, by what became of them.", ("outcome",), 1),
}
MOST_BUDGETS: Final = 20
MOST_WAITING: Final = 10_000


def register() -> None:
    """Let /metrics tell them."""
    register_gauges(_of_this_process)
    register_gauges(_of_the_database, kept_seconds=KEPT_SECONDS)


def _of_this_process() -> Iterator[Metric]:
    yield _gauge("sockets_open", "WebSockets of this process.", open_sockets())
    pool = GaugeMetricFamily(
        "cartrita_database_pool_connections",
        "Connections of this process's asyncio pool, and who waits for one.",
        labels=["state"],
    )
    for state, count in pool_statistics().items():
        pool.add_metric([state], count)
    yield pool


def _of_the_database() -> Iterator[Metric]:
    try:
        # In one transaction: the numbers fit one another, and each statement is bounded.
        with transaction.atomic():
            found = [*_counts(), *_log(), *_connections(), *_approvals(), *_budgets()]
    except Error as error:
        logger.warning("Metrics lack what stands in the database: %s", type(error).__name__)
        found = []
    yield _gauge(
        "database_up", "Whether the database answered; without it this process's counts alone.", bool(found)
    )
    yield from found


def _counts() -> Iterator[Metric]:
    families = {
        name: CounterMetricFamily(f"cartrita_{name}", told, labels=labels)
        for name, (told, labels, _) in COUNTS.items()
    }
    for key, value in MetricCount.objects.values_list("key", "value"):
        name, *labels = json.loads(key)
        if name in families:
            families[name].add_metric(labels, value * COUNTS[name][2])
    yield from families.values()


def _log() -> Iterator[Metric]:
    # What has no position yet is newer than the last look of the sequencer: an index has it.
    rows = _rows(
        """
        select coalesce((select position from log order by position desc limit 1), 0), count(*),
               coalesce(extract(epoch from now() - min(recorded_at)), 0)
        from (
            select recorded_at from event
            where xid >= coalesce(
                (select pg_snapshot_xmin(snapshot::pg_snapshot) from tick order by number desc limit 1), '0'
            ) and not exists (
                select from log where log.stream_id = event.stream_id and log.version = event.version
            ) limit %s
        ) as unplaced
        """,
        [MOST_WAITING],
    )
    ((head, waiting, oldest),) = rows
    yield CounterMetricFamily("cartrita_events", "Events in the log, in order.", value=head)
    yield _gauge("sequencer_waiting_events", f"Events without a position, at most {MOST_WAITING}.", waiting)
    yield _gauge("sequencer_lag_seconds", "Age of the oldest event without a position.", oldest)
    lag = GaugeMetricFamily(
        "cartrita_projection_lag_events", "Events that a read model has not seen yet.", labels=["projection"]
    )
    for name, position in _rows("select name, position from projection_checkpoint"):
        lag.add_metric([name], max(head - position, 0))
    yield lag


def _connections() -> Iterator[Metric]:
    found = GaugeMetricFamily(
        "cartrita_database_connections", "Connections to this database, by state.", labels=["state"]
    )
    for state, count in _rows(
        "select coalesce(state, 'unknown'), count(*) from pg_stat_activity "
        "where datname = current_database() group by 1"
    ):
        found.add_metric([state], count)
    yield found
    ((most,),) = _rows("select current_setting('max_connections')::int")
    yield _gauge("database_connections_max", "Connections that the database server takes.", most)


def _approvals() -> Iterator[Metric]:
    ((waiting, oldest),) = _rows(
        """
        select count(*), coalesce(extract(epoch from now() - min(requested_at)), 0)
        from (select requested_at from governance_approval where status = 'waiting' limit %s) as waiting
        """,
        [MOST_WAITING],
    )
    yield _gauge("approvals_waiting", "Approvals that wait for people.", waiting)
    yield _gauge("approvals_waiting_seconds", "Age of the oldest of them.", oldest)


def _budgets() -> Iterator[Metric]:
    used = GaugeMetricFamily(
        "cartrita_budget_used_ratio",
        f"Used and held back of a budget's present period, of the {MOST_BUDGETS} fullest.",
        labels=["budget", "scope"],
    )
    for budget_id, scope_kind, ratio in _rows(
        """
        select budget.id, scope_kind, greatest(
            coalesce((used_tokens + reserved_tokens)::float / nullif(limit_tokens, 0), 0),
            coalesce((used_micros + reserved_micros)::float / nullif(limit_micros, 0), 0)
        ) as ratio
        from governance_budget as budget
        join lateral (
            select * from governance_budget_balance as balance
            where balance.budget_id = budget.id order by period_start desc limit 1
        ) as newest on true
        where not closed
          and newest.period_start >= case period
              when 'hour' then now() - interval '1 hour' when 'day' then now() - interval '26 hours'
              when 'week' then now() - interval '8 days' when 'month' then now() - interval '32 days'
              when 'quarter' then now() - interval '93 days' when 'year' then now() - interval '367 days'
              else '-infinity' end
        order by ratio desc, budget.id limit %s
        """,
        [MOST_BUDGETS],
    ):
        used.add_metric([str(budget_id), scope_kind], ratio)
    yield used


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(f"cartrita_{name}", told, value=float(value))


def _rows(statement: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())
