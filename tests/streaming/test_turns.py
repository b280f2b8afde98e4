"""Connections are looked at when their time has come: in time, and not before."""

import math
from itertools import pairwise
from typing import Any
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from cartrita.streaming.consumer import StreamConsumer
from cartrita.streaming.flow import Flow
from cartrita.streaming.hub import TICK_SECONDS, Hub
from cartrita.streaming.protocol import (
    HEARTBEAT_SECONDS,
    REAUTHORISE_SECONDS,
    SILENCE_SECONDS,
    STALL_SECONDS,
    Close,
    next_check,
)

FLOAT_ERROR = 1e-6


class Quiet:
    """A member that wants to be looked at every so often, and notes when it was."""

    def __init__(self, every: float) -> None:
        self.user_id: Any = uuid4()
        self.every = every
        self.looked: list[float] = []

    def wake(self) -> None: ...

    def recheck(self) -> None: ...

    def end(self, close: Close, reason: str, *, retry_after: float | None = None) -> None: ...

    def tick(self, now: float) -> float:
        self.looked.append(now)
        return now + self.every


def passes(hub: Hub, begin: float, seconds: float) -> None:
    """Let time pass, as the hub's own task does."""
    for turn in range(1, int(seconds / TICK_SECONDS) + 1):
        hub._look(begin + turn * TICK_SECONDS)


def begun(hub: Hub) -> float:
    """Return a time at which nobody was looked at yet."""
    (turn,) = set(hub._turns)
    return turn * TICK_SECONDS


class TestTurns:
    async def test_come_when_they_were_asked_for(self) -> None:
        hub, member = Hub(), Quiet(15.0)
        assert hub.join(member)
        start = begun(hub)
        passes(hub, start, 61)
        assert [round(at - member.looked[0], 3) for at in member.looked] == [0, 15, 30, 45, 60]

    async def test_come_sooner_when_something_ends(self) -> None:
        hub, member = Hub(), Quiet(15.0)
        hub.join(member)
        start = begun(hub)
        passes(hub, start, 1)
        hub.look_at(member, start + 5)
        passes(hub, start + 1, 30)
        assert [round(at - start, 3) for at in member.looked[1:]] == [5, 20]

    async def test_are_nobody_s_who_left(self) -> None:
        hub, member = Hub(), Quiet(1.0)
        hub.join(member)
        start = begun(hub)
        hub.leave(member)
        hub.look_at(member, start + 1)
        passes(hub, start, 10)
        assert not member.looked
        assert not hub.members
        assert not hub._turns

    async def test_pass_from_one_that_fails_to_the_next(self) -> None:
        class Failing(Quiet):
            def tick(self, now: float) -> float:
                super().tick(now)
                raise ZeroDivisionError

        hub, bad, good = Hub(), Failing(1.0), Quiet(1.0)
        hub.join(bad)
        hub.join(good)
        start = min(hub._turns) * TICK_SECONDS
        passes(hub, start, 5)
        assert len(good.looked) >= 4
        assert len(bad.looked) >= 4


class TestConnection:
    @given(
        heard=st.lists(st.floats(0, 100), max_size=8),
        full=st.one_of(st.none(), st.floats(0, 60)),
    )
    def test_says_every_deadline_in_time(self, heard: list[float], full: float | None) -> None:
        """Whenever frames come and the window fills: silence, stalls, beats and checks are seen in time."""
        member = StreamConsumer.__new__(StreamConsumer)
        seen: dict[str, list[float]] = {"beat": [], "check": [], "end": []}
        now = 0.0
        member._ending = None
        member._flow = Flow.begin(at=now)
        member._beat_at, member._check_at = now, next_check(now)
        member._subscriptions = {}
        member._say = lambda frame: seen["beat"].append(now)  # type: ignore[method-assign]
        member.end = lambda *_, **__: seen["end"].append(now)  # type: ignore[method-assign]

        def recheck() -> None:
            seen["check"].append(now)
            member._check_at = next_check(now)

        member.recheck = recheck  # type: ignore[method-assign]
        due, frames, expected_end = member.tick(now), sorted(heard), math.inf
        while now < 200 and not seen["end"]:
            now = round(now + TICK_SECONDS, 6)
            while frames and frames[0] <= now:
                member._flow = member._flow.heard(at=frames.pop(0))
            if full is not None and full <= now and member._flow.window.is_open:
                while member._flow.window.is_open:
                    member._flow = member._flow.sent(1, at=full)
            expected_end = min(member._flow.silent_at, member._flow.window.stalls_at)
            if now >= due:
                due = member.tick(now)
        assert now - expected_end <= TICK_SECONDS + FLOAT_ERROR
        for kind, limit in (("beat", HEARTBEAT_SECONDS), ("check", REAUTHORISE_SECONDS)):
            times = [0.0, *seen[kind], now]
            gaps = [later - earlier for earlier, later in pairwise(times)]
            assert max(gaps) <= limit + TICK_SECONDS + FLOAT_ERROR

    def test_is_not_left_to_time_for_longer_than_a_client_may_be(self) -> None:
        flow = Flow.begin(at=7.0)
        assert flow.silent_at == 7.0 + SILENCE_SECONDS
        assert flow.window.stalls_at == math.inf
        while flow.window.is_open:
            flow = flow.sent(1, at=9.0)
        assert flow.window.stalls_at == 9.0 + STALL_SECONDS


class TestNextCheck:
    @given(now=st.floats(0, 1e9))
    def test_is_within_a_minute(self, now: float) -> None:
        assert now + REAUTHORISE_SECONDS - 2.001 <= next_check(now) <= now + REAUTHORISE_SECONDS + FLOAT_ERROR

    def test_is_the_same_for_many(self) -> None:
        assert len({next_check(1000 + number / 1000) for number in range(1999)}) <= 2
