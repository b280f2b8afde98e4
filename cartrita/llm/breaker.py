"""The circuit breaker that all processes share: a row for each model, read at most once a second by each."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

from django.db import Error, transaction
from django.db.models.functions import Now

from cartrita.eventstore import in_database_thread
from cartrita.llm import circuit as circuits
from cartrita.llm.catalog import ModelEntry
from cartrita.llm.circuit import Circuit, Report, State
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.llm.models import Circuit as CircuitRow
from cartrita.llm.providers import ProviderFailed

logger = logging.getLogger(__name__)

# How old what a process knows of a circuit may be.
FRESH_SECONDS = 1.0
# A call that came to its own deadline tells of a silent provider only if it listened for so long.
SILENCE_MS = 10_000

_UNWELL = frozenset({"rate_limited", "timed_out", "unreachable", "server_error", "cut_stream"})

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Admission:
    """Leave to call a model; `probe_id` is that of the one call which tries an unwell provider."""

    entry: ModelEntry
    probe_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class _View:
    """A circuit as the database had it at `at` of its clock, which was `read_at` of ours."""

    circuit: Circuit
    at: datetime
    read_at: float

    @property
    def age(self) -> float:
        return time.monotonic() - self.read_at

    @property
    def now(self) -> datetime:
        return self.at + timedelta(seconds=self.age)


# A process may run several loops, each with a database of its own (tests do).
_views: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Key, _View]] = WeakKeyDictionary()


async def admit(entry: ModelEntry) -> Admission:
    """Let a call pass, or raise ProviderFailed (`circuit_open`, with the seconds to wait)."""
    key = (entry.provider, entry.name)
    view = _known().get(key)
    if view is None or view.age > FRESH_SECONDS:
        view = _known()[key] = await in_database_thread(_read, key)
    if view.circuit.state == "closed":
        return Admission(entry)
    if not view.circuit.wait(view.now):
        probe_id = uuid4()
        view = _known()[key] = await in_database_thread(
            _change, key, lambda circuit, now: circuits.probed(circuit, probe_id, now=now)
        )
        if view.circuit.probe_id == probe_id:
            return Admission(entry, probe_id)
        if view.circuit.state == "closed":
            return Admission(entry)
    circuit, seconds = view.circuit, view.circuit.wait(view.now).total_seconds()
    raise ProviderFailed(
        "circuit_open",
        f"{entry.name} failed again and again ({circuit.failure}); it is not called for {seconds:.0f} s.",
        retryable=True,
        retry_after=round(seconds, 1),
    )


async def report(admission: Admission, outcome: ModelAnswered | ModelFailed) -> None:
    """Note what an admitted call shows of its provider; where the database fails, that is only logged.

    What the model said is worth more than the count of its failures.
    """
    entry, told = admission.entry, _told(outcome)
    key = (entry.provider, entry.name)
    view = _known().get(key)
    nothing_to_note = told == "unknown" or (
        told == "well" and view is not None and not view.circuit.failed_at
    )
    if admission.probe_id is None and nothing_to_note:
        return
    failed = outcome if isinstance(outcome, ModelFailed) else None
    wish = None if failed is None else failed.retry_after_seconds

    def noted(circuit: Circuit, now: datetime) -> Circuit:
        return circuits.reported(
            circuit,
            told,
            now=now,
            probe_id=admission.probe_id,
            failure="" if failed is None else failed.code,
            wish=None if wish is None else timedelta(seconds=wish),
        )

    try:
        _known()[key] = await in_database_thread(_change, key, noted)
    except Error:
        logger.warning("the circuit of %s could not be noted", entry.name, exc_info=True)


def standing() -> Mapping[str, Any]:
    """Return the models that are not called now, or only by a probe: the state of each by its name."""
    rows = CircuitRow.objects.exclude(state="closed").order_by("model")
    return {"not_called": {row.model: row.state for row in rows}}


def _told(outcome: ModelAnswered | ModelFailed) -> Report:
    if isinstance(outcome, ModelAnswered):
        return "well"
    if outcome.code == "deadline_passed":
        silent = outcome.first_token_ms is None and outcome.latency_ms >= SILENCE_MS
        return "unwell" if silent else "unknown"
    if outcome.code == "cancelled":
        return "unknown"
    return "unwell" if outcome.code in _UNWELL else "well"


def _known() -> dict[Key, _View]:
    return _views.setdefault(asyncio.get_running_loop(), {})


def _read(key: Key) -> _View:
    provider, model = key
    row = CircuitRow.objects.filter(provider=provider, model=model).annotate(now=Now()).first()
    if row is None:
        # Its clock does not matter: a closed circuit waits for no time.
        return _View(Circuit(), datetime.now(UTC), time.monotonic())
    return _View(_circuit(row), row.now, time.monotonic())


@transaction.atomic
def _change(key: Key, change: Callable[[Circuit, datetime], Circuit]) -> _View:
    provider, model = key
    CircuitRow.objects.bulk_create(
        [CircuitRow(id=uuid4(), provider=provider, model=model)], ignore_conflicts=True
    )
    rows = CircuitRow.objects.select_for_update().annotate(now=Now())
    row = rows.get(provider=provider, model=model)
    before = _circuit(row)
    after = change(before, row.now)
    if after != before:
        row.state, row.until, row.probe_id = after.state, after.until, after.probe_id
        row.failed_at, row.openings, row.failure = list(after.failed_at), after.openings, after.failure
        row.changed_at = row.now
        row.save()
    if after.state != before.state:
        _log(model, before, after, row.now)
    return _View(after, row.now, time.monotonic())


def _circuit(row: CircuitRow) -> Circuit:
    return Circuit(
        state=cast("State", row.state),
        failed_at=tuple(row.failed_at),
        openings=row.openings,
        until=row.until,
        probe_id=row.probe_id,
        failure=row.failure,
    )


def _log(model: str, before: Circuit, after: Circuit, now: datetime) -> None:
    match after.state:
        case "open":
            seconds = after.wait(now).total_seconds()
            logger.warning(
                "%s is not called for %.0f s: %s (was %s)", model, seconds, after.failure, before.state
            )
        case "half_open":
            logger.info("%s is tried with one call", model)
        case "closed":
            logger.info("%s is called again", model)
