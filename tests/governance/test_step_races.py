"""Many steps at once, each with a connection of its own."""

import asyncio
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import psycopg
import pytest
from django.db import connection

from cartrita.eventstore import Append, Sequencer, append, close_async, new_id, rebuild
from governance.approval import ApprovalGranted, approval_id
from governance.break_glass import BreakGlassEnded, BreakGlassOpened
from governance.models import Approval, BudgetBalance
from governance.queries.decisions import recount, redecide_all
from governance.step import Decided, TaskLimit, atake_step, take_step
from tests.databases import Database
from tests.governance.policies import rule
from tests.governance.steps import Place, balance, settled

T = TypeVar("T")

ALLOW = rule("ok", "allow")
OUTCOMES = ("succeeded", "failed", "timed_out", "cancelled", "unknown")


@pytest.fixture(autouse=True)
def consistent(database: Database) -> Iterator[None]:
    """After each race balances and labels equal their decisions, which come out again as recorded."""
    yield
    asyncio.run(Sequencer().order())
    assert recount() == []
    assert redecide_all()[1] == []
    assert rebuild.differences() == []


@pytest.fixture
def place() -> Place:
    made = Place()
    made.follows(ALLOW)
    return made


def at_once(work: Sequence[Callable[[], T]], *, threads: int = 8) -> list[T]:
    """Run everything, each thread with a connection of its own; return what came of it."""
    left = deque(enumerate(work))
    results: dict[int, T] = {}

    def run() -> None:
        try:
            while True:
                try:
                    place, one = left.popleft()
                except IndexError:
                    return
                results[place] = one()
        finally:
            connection.close()

    with ThreadPoolExecutor(threads) as pool:
        for ended in [pool.submit(run) for _ in range(threads)]:
            ended.result()
    return [results[place] for place in range(len(work))]


def allowed(decided: Sequence[Decided]) -> bool:
    return bool(decided) and decided[-1].permit is not None


def decided_after(place: Place, url: str, change: Callable[[], object]) -> Decided:
    """Decide on an act whose locks somebody else holds until something has changed."""
    take_step(context=place.context, acts=[place.act()])
    with ThreadPoolExecutor(1) as pool, psycopg.connect(url) as holder:
        holder.execute("select from governance_label_set for update")
        asked = pool.submit(
            at_once, [partial(take_step, context=place.context, acts=[place.act()])], threads=1
        )
        with psycopg.connect(url, autocommit=True) as watcher:
            while not watcher.execute("select from pg_locks where not granted").rowcount:
                time.sleep(0.01)
        change()
        holder.rollback()
        return asked.result()[0][-1]


class TestWhileAStepWaits:
    """What was read before it waited is not what it decides by."""

    def test_another_set_may_come_into_force(self, place: Place, database: Database) -> None:
        decided = decided_after(
            place, database.superuser_url, lambda: place.follows(rule("stop", "deny", priority=10))
        )
        assert (decided.verdict.rule, decided.permit) == ("stop", None)

    def test_break_glass_may_end(self, place: Place, database: Database) -> None:
        place.follows(rule("stop", "deny", breakable=True))
        glass_id = new_id()
        opened = BreakGlassOpened(
            scope_kind="workspace",
            scope="",
            reason="The gateway is down.",
            by=f"user:{place.user_id}",
            until=datetime.now(UTC) + timedelta(hours=1),
        )
        append(Append(glass_id, 0, [opened], place.context))
        ended = BreakGlassEnded(by=f"user:{place.user_id}", note="Over.")

        def end() -> None:
            append(Append(glass_id, 1, [ended], place.context))

        decided = decided_after(place, database.superuser_url, end)
        assert (decided.verdict.rule, decided.permit) == ("stop", None)


class TestABudgetForFifty:
    def test_lets_exactly_fifty_of_two_hundred_threads_pass(self, place: Place) -> None:
        budget = place.has_budget(tokens=500)

        def call() -> bool:
            return allowed(take_step(context=place.context, acts=[place.act(tokens=10)]))

        assert sum(at_once([call] * 200, threads=16)) == 50
        assert balance(budget) == (500, 0)

    def test_lets_exactly_fifty_of_two_hundred_tasks_pass(self, place: Place) -> None:
        budget = place.has_budget(tokens=500)

        async def calls() -> list[Any]:
            try:
                steps = (atake_step(context=place.context, acts=[place.act(tokens=10)]) for _ in range(200))
                return await asyncio.gather(*steps)
            finally:
                await close_async()

        assert sum(map(allowed, asyncio.run(calls()))) == 50
        assert balance(budget) == (500, 0)

    def test_holds_with_a_task_limit_inside_and_a_workspace_around(self, place: Place) -> None:
        workspace = place.has_budget(tokens=500, scope_kind="workspace")
        places = [place, place.another_session(), place.another_session()]
        sessions = [one.has_budget(tokens=200, parent_id=workspace) for one in places]
        limits = [TaskLimit(task_id=new_id(), tokens=190) for _ in places]

        def call(number: int) -> Callable[[], bool]:
            here, limit = places[number % 3], limits[number % 3]
            act = here.act(tokens=10, task_limit=limit)
            return lambda: allowed(take_step(context=here.context, acts=[act]))

        assert sum(at_once([call(number) for number in range(200)])) == 50
        assert balance(workspace) == (500, 0)
        assert sum(balance(session)[0] for session in sessions) == 500
        assert all(balance(session)[0] <= 190 for session in sessions)

    def test_is_never_over_while_acts_end_in_every_way(self, place: Place) -> None:
        workspace = place.has_budget(tokens=500, scope_kind="workspace")
        session = place.has_budget(tokens=400, parent_id=workspace)
        over: list[BudgetBalance] = []

        def call(number: int) -> Callable[[], bool]:
            chance = random.Random(number)  # a reproducible story, no secret

            def act_and_settle() -> bool:
                act = place.act(tokens=10)
                passed = allowed(take_step(context=place.context, acts=[act]))
                over.extend(
                    row
                    for row in BudgetBalance.objects.all()
                    if row.reserved_tokens + row.used_tokens > (500 if row.budget_id == workspace else 400)
                )
                if passed and chance.random() < 0.8:
                    outcome: Any = chance.choice(OUTCOMES)
                    tokens = chance.randint(0, 10) if outcome != "cancelled" else 0
                    end = settled(act.decision_id, outcome, tokens=tokens)
                    take_step(context=place.context, settlements=[end])
                    if chance.random() < 0.3:
                        take_step(context=place.context, settlements=[settled(act.decision_id, "unknown")])
                return passed

            return act_and_settle

        passed = sum(at_once([call(number) for number in range(200)]))
        assert over == []
        assert passed >= 40
        reserved, used = balance(session)
        assert reserved + used <= 400
        assert balance(workspace) == (reserved, used)


class TestAReadAndASend:
    @pytest.mark.parametrize("sessions", ["one", "two"])
    def test_are_never_both_under_way(self, place: Place, sessions: str) -> None:
        place.follows(
            rule("no-send", "deny", "tool.name == 'send' && 'secret' in labels"),
            rule("no-send-lately", "deny", "tool.name == 'send' && 'secret' in actor_labels"),
            ALLOW,
        )
        seen: Counter[tuple[str, str]] = Counter()
        for number in range(40):
            reader = Place(workspace_id=place.workspace_id)
            sender = reader if sessions == "one" else reader.another_session()
            barrier = threading.Barrier(2)

            def step(
                here: Place, tool: str, may_add: tuple[str, ...], delay: int, barrier: threading.Barrier
            ) -> str:
                barrier.wait()
                time.sleep(delay / 1000)
                act = here.act(tool, may_add=may_add)
                return take_step(context=here.context, acts=[act])[0].verdict.rule

            read = partial(step, reader, "read", ("secret",), number % 4, barrier)
            send = partial(step, sender, "send", (), number // 4 % 4, barrier)
            was_read, was_sent = at_once([read, send], threads=2)
            seen[was_read, was_sent] += 1
        assert sum(seen.values()) == 40
        lately = "no-send" if sessions == "one" else "no-send-lately"
        # One of them goes ahead, and never both.
        assert seen.keys() <= {("ok", lately), ("taints-act-under-way", "ok")}


class TestAThrottle:
    def test_never_lets_more_through_than_its_rate(self, place: Place) -> None:
        place.follows(rule("slow", "throttle", parameters={"rate": "40/second", "burst": 5}), ALLOW)
        started = time.monotonic()
        stop = started + 1.5

        def call() -> int:
            passed = 0
            while time.monotonic() < stop:
                passed += allowed(take_step(context=place.context, acts=[place.act()]))
            return passed

        passed = sum(at_once([call] * 8))
        elapsed = time.monotonic() - started
        assert 5 < passed <= 5 + 40 * elapsed

    def test_lets_through_who_waits_as_told(self, place: Place) -> None:
        place.follows(rule("slow", "throttle", parameters={"rate": "20/second", "burst": 1}), ALLOW)
        for _ in range(5):
            (decided,) = take_step(context=place.context, acts=[place.act()])
            if decided.permit is None:
                time.sleep((decided.verdict.retry_after_ms or 0) / 1000)
                (decided,) = take_step(context=place.context, acts=[place.act()])
            assert decided.permit


class TestAGrantForOnce:
    def test_is_used_once(self, place: Place) -> None:
        place.follows(rule("ask", "escalate"), ALLOW)
        for _ in range(10):
            act = place.act(arguments={"round": str(new_id())})
            take_step(context=place.context, acts=[act])
            id_ = approval_id(act.decision_id)
            granted = ApprovalGranted(by=("user:someone",), scope="once", own=False)
            append(Append(id_, 1, [granted], place.context))
            barrier = threading.Barrier(2)

            def call(barrier: threading.Barrier = barrier, asked: Any = act.request.arguments) -> bool:
                again = place.act(arguments=dict(asked))
                barrier.wait()
                return allowed(take_step(context=place.context, acts=[again]))

            assert sum(at_once([call, call], threads=2)) == 1
            assert Approval.objects.get(id=id_).status == "used"


class TestMixedSteps:
    @pytest.mark.timeout(120)
    def test_never_wait_for_one_another_in_a_circle(self, place: Place) -> None:
        place.follows(
            rule("ask", "escalate", "tool.name == 'python'", parameters={"scopes": ["session", "pattern"]}),
            rule("slow-all", "throttle", parameters={"rate": "200/second", "per": "workspace"}),
            rule("slow-one", "throttle", parameters={"rate": "100/second", "per": "user"}),
            ALLOW,
        )
        workspace = place.has_budget(tokens=3000, scope_kind="workspace")
        places = [place, *(place.another_session() for _ in range(2)), Place(workspace_id=place.workspace_id)]
        for here in places:
            here.has_budget(tokens=1500, parent_id=workspace)
        first = place.act("python")
        take_step(context=place.context, acts=[first])
        pattern = ApprovalGranted(
            by=("user:someone",), scope="pattern", own=False, pattern={"expression": "*"}
        )
        append(Append(approval_id(first.decision_id), 1, [pattern], place.context))
        limits = [TaskLimit(task_id=new_id(), tokens=1000) for _ in range(3)]
        open_: list[Any] = []
        stop = time.monotonic() + 4

        def work(number: int) -> Callable[[], int]:
            chance = random.Random(number)  # a reproducible story, no secret

            def act_on() -> int:
                steps = 0
                while time.monotonic() < stop:
                    here = chance.choice(places)
                    acts = [
                        here.act(
                            chance.choice(["read", "send", "python"]),
                            tokens=chance.randint(0, 30),
                            task_limit=chance.choice([None, *limits]),
                            may_add=tuple(chance.sample(["a", "b", "c"], chance.randint(0, 2))),
                        )
                        for _ in range(chance.randint(0, 3))
                    ]
                    ends = []
                    while open_ and chance.random() < 0.7:
                        try:
                            ends.append(settled(open_.pop(), chance.choice(OUTCOMES), tokens=5))
                        except IndexError:
                            break
                    decided = take_step(context=here.context, acts=acts, settlements=ends)
                    open_.extend(one.decision_id for one in decided if one.permit)
                    steps += 1
                return steps

            return act_on

        assert sum(at_once([work(number) for number in range(8)])) > 20
