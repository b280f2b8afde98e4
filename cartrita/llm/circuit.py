"""When calls of a model are refused because its provider is unwell: the states of a circuit breaker. Pure.

Source: M. Nygard, Release It!, 2nd edition, chapter 5 ("Circuit Breaker"); here several processes share one
circuit, so that a probe has an id, and counts as lost when its end is not heard of in time.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

State = Literal["closed", "open", "half_open"]
# What a call says about the provider. One that was cancelled says nothing.
Report = Literal["well", "unwell", "unknown"]

# So many failed calls in a row, each after all of its tries, within this window open a circuit.
FAILURES = 3
WINDOW = timedelta(minutes=5)
# How long nothing is sent: doubled with each probe that fails, or as long as the provider asks for.
FIRST_PAUSE = timedelta(seconds=15)
LONGEST_PAUSE = timedelta(minutes=5)
LONGEST_WISH = timedelta(minutes=15)
# After so long another call may probe: the process of the first one may have died.
PROBE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """What the calls of one model have shown so far.

    `failed_at` holds the times of the newest failures since the last answer, `openings` counts how often the
    circuit opened since then. Until `until` an open circuit refuses all, and a half-open one all but the
    probe.
    """

    state: State = "closed"
    failed_at: tuple[datetime, ...] = ()
    openings: int = 0
    until: datetime | None = None
    probe_id: UUID | None = None
    failure: str = ""

    def wait(self, now: datetime) -> timedelta:
        """Return how long calls are refused from now on; zero where one may be sent."""
        if self.until is None:
            return timedelta()
        return max(self.until - now, timedelta())


def probed(circuit: Circuit, probe_id: UUID, *, now: datetime) -> Circuit:
    """Return the circuit with this call as its probe; unchanged where none is due."""
    if circuit.state == "closed" or circuit.wait(now):
        return circuit
    return replace(circuit, state="half_open", probe_id=probe_id, until=now + PROBE)


def reported(
    circuit: Circuit,
    report: Report,
    *,
    now: datetime,
    probe_id: UUID | None = None,
    failure: str = "",
    wish: timedelta | None = None,
) -> Circuit:
    """Return the circuit after a call ended.

    `probe_id` is that of a probe, `failure` the code of what went wrong, `wish` what the provider asked to
    wait. While the circuit is not closed, calls that were sent before it opened change nothing.
    """
    if circuit.state == "closed":
        return _counted(circuit, report, now=now, failure=failure, wish=wish)
    if probe_id is None:
        return circuit
    if report == "well":
        return Circuit()
    if circuit.probe_id != probe_id:
        return circuit
    if report == "unknown":
        return replace(circuit, state="open", probe_id=None, until=now)
    return _opened(circuit, now=now, failure=failure, wish=wish)


def _counted(
    circuit: Circuit, report: Report, *, now: datetime, failure: str, wish: timedelta | None
) -> Circuit:
    if report == "well":
        return Circuit()
    if report == "unknown":
        return circuit
    recent = tuple(at for at in (*circuit.failed_at, now) if now - at <= WINDOW)[-FAILURES:]
    circuit = replace(circuit, failed_at=recent, failure=failure)
    return circuit if len(recent) < FAILURES else _opened(circuit, now=now, failure=failure, wish=wish)


def _opened(circuit: Circuit, *, now: datetime, failure: str, wish: timedelta | None) -> Circuit:
    # Beyond the tenth doubling the pause is the longest one anyway.
    pause = min(FIRST_PAUSE * 2 ** min(circuit.openings, 10), LONGEST_PAUSE)
    if wish is not None:
        pause = max(pause, min(wish, LONGEST_WISH))
    return replace(
        circuit,
        state="open",
        openings=circuit.openings + 1,
        probe_id=None,
        until=now + pause,
        failure=failure,
    )
