"""The states of a circuit breaker, without a database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from cartrita.llm.circuit import (
    FAILURES,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    LONGEST_WISH,
    PROBE,
    WINDOW,
    Circuit,
    Report,
    probed,
    reported,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ONE, OTHER = UUID(int=1), UUID(int=2)


def failed(*, times: int = FAILURES, every: timedelta = SECOND) -> Circuit:
    circuit = Circuit()
    for number in range(times):
        circuit = reported(circuit, "unwell", now=NOON + number * every, failure="server_error")
    return circuit


STEPS = ("probe", *get_args(Report))
OPEN = failed(every=timedelta())
DUE = NOON + FIRST_PAUSE
PROBED = probed(OPEN, ONE, now=DUE)


class TestClosed:
    def test_opens_after_failures_in_a_row(self) -> None:
        assert failed(times=FAILURES - 1).state == "closed"
        circuit = failed()
        assert (circuit.state, circuit.failure) == ("open", "server_error")
        assert circuit.until == NOON + (FAILURES - 1) * SECOND + FIRST_PAUSE

    def test_forgets_its_failures_at_an_answer(self) -> None:
        circuit = reported(failed(times=FAILURES - 1), "well", now=NOON)
        assert circuit == Circuit()

    def test_forgets_a_failure_after_the_window(self) -> None:
        assert failed(times=20, every=WINDOW / (FAILURES - 1) + SECOND).state == "closed"

    def test_does_not_count_what_was_cancelled(self) -> None:
        circuit = failed(times=FAILURES - 1)
        assert reported(circuit, "unknown", now=NOON) == circuit

    def test_has_no_probe(self) -> None:
        assert probed(Circuit(), ONE, now=NOON) == Circuit()

    def test_waits_as_long_as_the_provider_asks(self) -> None:
        for asked, waited in (
            (60 * SECOND, 60 * SECOND),
            (SECOND, FIRST_PAUSE),
            (999_999 * SECOND, LONGEST_WISH),
        ):
            circuit = reported(failed(times=FAILURES - 1), "unwell", now=NOON, wish=asked)
            assert circuit.wait(NOON) == waited


class TestOpen:
    def test_lets_nothing_pass_before_its_time(self) -> None:
        early = DUE - SECOND
        assert OPEN.wait(early) == SECOND
        assert probed(OPEN, ONE, now=early) == OPEN

    def test_lets_one_probe_pass(self) -> None:
        assert (PROBED.state, PROBED.probe_id) == ("half_open", ONE)
        assert probed(PROBED, OTHER, now=DUE + PROBE - SECOND) == PROBED

    def test_lets_another_pass_when_the_probe_is_lost(self) -> None:
        assert probed(PROBED, OTHER, now=DUE + PROBE).probe_id == OTHER

    def test_does_not_listen_to_calls_from_before(self) -> None:
        for report in get_args(Report):
            assert reported(OPEN, report, now=DUE) == OPEN
            assert reported(PROBED, report, now=DUE) == PROBED


class TestProbe:
    def test_closes_the_circuit_when_it_is_answered(self) -> None:
        assert reported(PROBED, "well", now=DUE, probe_id=ONE) == Circuit()

    def test_opens_it_again_for_longer_and_longer(self) -> None:
        circuit, now, pauses = PROBED, DUE, []
        for _ in range(8):
            circuit = reported(circuit, "unwell", now=now, probe_id=ONE, failure="unreachable")
            pauses.append(circuit.wait(now))
            now += pauses[-1]
            circuit = probed(circuit, ONE, now=now)
        assert pauses[:3] == [2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
        assert pauses[-1] == LONGEST_PAUSE

    def test_leaves_its_place_when_it_is_cancelled(self) -> None:
        circuit = reported(PROBED, "unknown", now=DUE, probe_id=ONE)
        assert probed(circuit, OTHER, now=DUE).probe_id == OTHER

    def test_that_was_given_up_can_only_bring_good_news(self) -> None:
        second = replace(PROBED, probe_id=OTHER)
        assert reported(second, "unwell", now=DUE, probe_id=ONE) == second
        assert reported(second, "unknown", now=DUE, probe_id=ONE) == second
        assert reported(second, "well", now=DUE, probe_id=ONE) == Circuit()


class TestAnyCircuit:
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["probe", *get_args(Report)]),
                st.integers(0, 400),
                st.booleans(),
                st.booleans(),
            ),
            max_size=60,
        )
    )
    def test_lets_calls_pass_again_sooner_or_later(self, steps: list[tuple[str, int, bool, bool]]) -> None:
        circuit, now = Circuit(), NOON
        for what, seconds, as_probe, current in steps:
            now += seconds * SECOND
            if what == "probe":
                circuit = probed(circuit, uuid4(), now=now)
            else:
                probe_id = (circuit.probe_id if current else OTHER) if as_probe else None
                circuit = reported(circuit, what, now=now, probe_id=probe_id)  # type: ignore[arg-type]
            assert (circuit.state == "half_open") == (circuit.probe_id is not None)
            assert (circuit.state == "closed") == (circuit.until is None)
            assert len(circuit.failed_at) <= FAILURES
            later = now + circuit.wait(now)
            assert later - now <= LONGEST_PAUSE
            assert circuit.state == "closed" or probed(circuit, ONE, now=later).probe_id == ONE
