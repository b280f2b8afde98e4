"""Break-glass: what one opening may become, and for which acts it is in force. Pure."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartrita.errors import BadInput
from cartrita.eventstore import Event, new_id
from governance.break_glass import (
    LONGEST,
    AlreadyOpen,
    BreakGlass,
    BreakGlassEnded,
    BreakGlassNotFound,
    BreakGlassOpened,
    BreakGlassOver,
    BreakGlassReviewed,
    NothingToReview,
    Opening,
    OwnAct,
    covering,
    end,
    fold,
    open_for,
    review,
)
from tests.governance.eyes import eyes
from tests.governance.policies import NOON

ANN, BEN = UUID(int=1), UUID(int=2)
REASON = "The gateway is down, and customers wait."
HOUR = timedelta(hours=1)


def opened(**more: Any) -> list[Event]:
    given: dict[str, Any] = {
        "scope_kind": "workspace",
        "scope": "",
        "reason": REASON,
        "by": f"user:{ANN}",
        "lasts": HOUR,
        "now": NOON,
        "others": (),
        "alone": False,
    }
    return open_for(**{**given, **more})


def glass(*events: Event) -> BreakGlass:
    return fold([*opened(), *events])


def opening(scope_kind: Any = "workspace", scope: object = "", *, hours: float = 1) -> Opening:
    return Opening(
        id=new_id(), scope_kind=scope_kind, scope=str(scope), by="user:1", until=NOON + hours * HOUR
    )


class TestOpenFor:
    def test_says_who_why_and_until_when(self) -> None:
        assert opened(reason=f"  {REASON}\n", alone=True) == [
            BreakGlassOpened(
                scope_kind="workspace",
                scope="",
                reason=REASON,
                by=f"user:{ANN}",
                until=NOON + HOUR,
                alone=True,
            )
        ]

    @pytest.mark.parametrize(
        "reason",
        [
            "",
            "too short",
            " " * 30,
            "x" * 501,
            "x" * 20 + "\0",
            "x" * 20 + "\ud800",
            "\u200b" * 30,
            "\u3164\u2800" * 20,
            "a" + " " * 40 + "b",
        ],
    )
    def test_takes_no_other_reasons(self, reason: str) -> None:
        with pytest.raises(BadInput) as refused:
            opened(reason=reason)
        assert refused.value.field == "reason"

    @pytest.mark.parametrize("lasts", [timedelta(), -HOUR, LONGEST + timedelta(seconds=1)])
    def test_takes_no_other_times(self, lasts: timedelta) -> None:
        with pytest.raises(BadInput, match="at most 8 hours"):
            opened(lasts=lasts)

    def test_lasts_eight_hours_at_most(self) -> None:
        assert glass().until == NOON + HOUR
        (event,) = opened(lasts=LONGEST)
        assert isinstance(event, BreakGlassOpened)
        assert event.until == NOON + timedelta(hours=8)

    def test_tells_who_was_faster(self) -> None:
        other = opening()
        with pytest.raises(AlreadyOpen) as refused:
            opened(others=[opening("session", ANN), other])
        assert refused.value.details["id"] == str(other.id)
        assert opened(others=[opening("session", ANN)]) == opened()
        assert opened(others=[opening(hours=0)]) == opened()


class TestEnd:
    def test_is_once(self) -> None:
        (ended,) = end(glass(), by=f"user:{BEN}", note=" Over. ", now=NOON)
        assert ended == BreakGlassEnded(by=f"user:{BEN}", note="Over.")
        assert end(glass(ended), by=f"user:{BEN}", note="", now=NOON) == []
        with pytest.raises(BreakGlassOver) as refused:
            end(glass(ended), by=f"user:{ANN}", note="", now=NOON)
        assert refused.value.details["by"] == f"user:{BEN}"

    def test_is_not_for_what_is_over_or_never_was(self) -> None:
        with pytest.raises(BreakGlassOver, match="time is over"):
            end(glass(), by="user:x", note="", now=NOON + HOUR)
        with pytest.raises(BreakGlassNotFound):
            end(BreakGlass(), by="user:x", note="", now=NOON)

    @pytest.mark.parametrize("note", ["\0", "x" * 501])
    def test_takes_no_other_notes(self, note: str) -> None:
        with pytest.raises(BadInput) as refused:
            end(glass(), by="user:x", note=note, now=NOON)
        assert refused.value.field == "note"


class TestReview:
    def test_names_what_is_new_and_what_is_own(self) -> None:
        one, other, third = new_id(), new_id(), new_id()
        passed = {one: BEN, other: None, third: ANN}
        (reviewed,) = review(
            glass(),
            decisions=[one, other],
            passed=passed,
            reviewer_id=BEN,
            four_eyes=eyes(on=False),
            note="Fine.",
        )
        assert reviewed == BreakGlassReviewed(
            decisions=(one, other), by=f"user:{BEN}", own=(one,), note="Fine."
        )
        state = glass(reviewed)
        assert state.reviewed == {one, other}
        assert not review(state, decisions=[one], passed=passed, reviewer_id=BEN, four_eyes=eyes(), note="")
        (rest,) = review(
            state, decisions=[one, third], passed=passed, reviewer_id=BEN, four_eyes=eyes(), note=""
        )
        assert rest == BreakGlassReviewed(decisions=(third,), by=f"user:{BEN}")

    @pytest.mark.parametrize(("reviewer", "said"), [(ANN, "You opened it"), (BEN, "An act is your own")])
    def test_is_another_persons_work(self, reviewer: UUID, said: str) -> None:
        decision_id = new_id()
        with pytest.raises(OwnAct, match=said):
            review(
                glass(), decisions=[decision_id], passed={decision_id: BEN}, reviewer_id=reviewer,
                four_eyes=eyes(), note="",
            )  # fmt: skip

    def test_is_of_what_it_let_pass(self) -> None:
        with pytest.raises(NothingToReview):
            review(glass(), decisions=[new_id()], passed={}, reviewer_id=BEN, four_eyes=eyes(), note="")
        with pytest.raises(BreakGlassNotFound):
            review(BreakGlass(), decisions=[], passed={}, reviewer_id=BEN, four_eyes=eyes(), note="")
        many = [new_id() for _ in range(501)]
        with pytest.raises(BadInput, match="At most 500"):
            review(glass(), decisions=many, passed={}, reviewer_id=BEN, four_eyes=eyes(), note="")


class TestCovering:
    def test_is_the_narrowest(self) -> None:
        everywhere, person, here = opening(), opening("user", ANN), opening("session", BEN)
        all_of_them = [everywhere, person, here]

        def found(session_id: UUID | None, requester_id: UUID | None) -> UUID | None:
            fact = covering(all_of_them, session_id=session_id, requester_id=requester_id, at=NOON)
            return fact.id if fact else None

        assert found(BEN, ANN) == here.id
        assert found(None, ANN) == person.id
        assert found(ANN, BEN) == everywhere.id
        all_of_them.remove(everywhere)
        assert found(None, None) is None
        assert found(ANN, BEN) is None

    @given(
        hours=st.lists(st.floats(-2, 2, allow_nan=False), max_size=6),
        at=st.integers(-7_200, 7_200).map(lambda seconds: NOON + timedelta(seconds=seconds)),
    )
    def test_is_in_force_until_its_end_and_not_at_it(self, hours: list[float], at: Any) -> None:
        openings = [opening(hours=each) for each in hours]
        fact = covering(openings, session_id=None, requester_id=None, at=at)
        ends = [one.until for one in openings if at < one.until]
        assert (fact.until if fact else None) == (max(ends) if ends else None)
        for one in openings:
            alone = covering([one], session_id=None, requester_id=None, at=one.until)
            assert alone is None


class TestBreakGlass:
    def test_is_in_force_until_it_is_ended_or_over(self) -> None:
        state = glass()
        assert state.in_force(NOON)
        assert state.in_force(NOON + HOUR - timedelta(microseconds=1))
        assert not state.in_force(NOON + HOUR)
        assert not glass(BreakGlassEnded(by="user:2")).in_force(NOON)
        assert not BreakGlass().in_force(NOON)
