"""What is told of plans and runs, and to whom."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cartrita.accounts.queries import Caller, caller_in_workspace
from cartrita.eventstore import new_id
from sessions_app.commands import erase_session
from tasks_app import queries
from tasks_app.plan import PlanAccepted, PlanHeldBack
from tasks_app.plan_view import PlanView, TaskView
from tasks_app.queries import PlanNotFound, RunNotFound, SessionNotVisible
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.tasks_app.written import Written, ordered

pytestmark = pytest.mark.flow

APPROVAL = new_id()


@pytest.fixture
def ann(database: Database) -> Person:
    return someone()


def as_caller(person: Person) -> Caller:
    found = caller_in_workspace(person.id, person.workspace_id)
    assert found is not None
    return found


@pytest.fixture
def seen(ann: Person) -> Callable[[Written], PlanView]:
    return lambda written: queries.plan(written.plan_id, as_caller(ann))


def tasks_of(view: PlanView, written: Written) -> list[TaskView]:
    """Return the tasks by their numbers."""
    by_id = {task.id: task for task in view.all_tasks()}
    return [by_id[task_id] for task_id in written.tasks]


class TestPlan:
    def test_is_a_tree_with_what_each_task_waits_for(
        self, ann: Person, seen: Callable[[Written], PlanView]
    ) -> None:
        written = Written(ann).propose(
            ["Read", "Count", "Write"], (1, "depends_on", 3), (2, "blocks", 3), agents=["a", "b", "a"]
        )
        view = seen(written)
        assert (view.status, view.task_count, view.agents) == ("accepted", 4, ("assistant", "a", "b"))
        assert [part.intent for part in view.tasks[0].parts] == ["Read", "Count", "Write"]
        root, read, count, write = tasks_of(view, written)
        assert [task.status for task in (root, read, count, write)] == [
            "blocked",
            "pending",
            "pending",
            "blocked",
        ]
        assert write.blocked_by == (read.id, count.id)
        assert [(edge.task_id, edge.relation) for edge in write.depends_on] == [
            (read.id, "depends_on"),
            (count.id, "blocks"),
        ]
        assert write.waits_for == "tasks"
        assert root.blocked_by == (read.id, count.id, write.id)

    def test_tells_verdicts_costs_and_times(self, ann: Person, seen: Callable[[Written], PlanView]) -> None:
        written = Written(ann).propose(["Read", "Count"])
        written.complete(1)
        run_id = written.start(2)
        decision_id = written.decide(run_id, outcome="audit", rule="look-at-it")
        view = seen(written)
        _, read, count = tasks_of(view, written)
        assert (read.status, read.actual_tokens, read.costs, read.attempts) == (
            "complete",
            25,
            {"USD": 1500},
            1,
        )
        assert read.started_at is not None
        assert read.ended_at is not None
        assert count.verdict is not None
        assert (count.verdict.decision_id, count.verdict.outcome, count.verdict.rule) == (
            decision_id,
            "audit",
            "look-at-it",
        )
        assert (count.status, count.run_id, count.ended_at) == ("running", run_id, None)
        assert (view.actual_tokens, view.costs, view.ended_count) == (25, {"USD": 1500}, 1)

    def test_tells_which_approval_a_task_waits_for(
        self, ann: Person, seen: Callable[[Written], PlanView]
    ) -> None:
        written = Written(ann).propose(["Read", "Count"])
        written.decide(written.start(1), outcome="escalate", permitted=False, approval_id=APPROVAL)
        at = datetime(2030, 1, 1, tzinfo=UTC)
        written.decide(written.start(2), outcome="throttle", permitted=False, retry_after=at)
        _, read, count = tasks_of(seen(written), written)
        assert (read.status, read.waits_for, read.approval_id) == ("blocked", "approval", APPROVAL)
        assert (count.waits_for, count.approval_id, count.next_try_at) == ("time", None, at)

    def test_that_waits_itself_says_for_what(self, ann: Person, seen: Callable[[Written], PlanView]) -> None:
        written = Written(ann).propose(["Read", "Count"], accept=False)
        held = PlanHeldBack(
            decision_id=new_id(), attempt=1, outcome="escalate", rule="r", reason="x", approval_id=APPROVAL
        )
        written.record(held)
        view = seen(written)
        assert (view.status, view.approval_id) == ("waiting", APPROVAL)
        assert {task.waits_for for task in view.all_tasks()} == {"approval"}
        written.record(PlanAccepted(decision_id=new_id(), outcome="allow"))
        assert seen(written).approval_id is None

    def test_tells_failures_retries_and_what_was_left_out(
        self, ann: Person, seen: Callable[[Written], PlanView]
    ) -> None:
        written = Written(ann).propose(["Read", "Count", "Ask"], (1, "depends_on", 2))
        written.fail(1)
        written.fail(3, code="timed_out")
        _, read, count, ask = tasks_of(seen(written), written)
        assert (read.status, read.code, read.error) == ("failed", "broken", "The table has no rows.")
        assert (count.status, count.code) == ("pruned", "dependency_failed")
        assert (ask.status, ask.attempts, ask.code, ask.waits_for) == ("pending", 1, "timed_out", "time")
        assert ask.next_try_at is not None
        written.complete(3)
        _, _, _, ask = tasks_of(seen(written), written)
        assert (ask.status, ask.attempts, ask.actual_tokens) == ("complete", 2, 28)
        assert ask.costs == {"USD": 3000}

    def test_gives_what_a_critic_found_once_the_answer_was_given(
        self, ann: Person, seen: Callable[[Written], PlanView]
    ) -> None:
        written = Written(ann).propose(["Read", "Count"])
        written.complete(1)
        written.criticise(1, "numbers supported", passed=False, verdict="revise")
        task = tasks_of(seen(written), written)[1]
        assert [(check.name, check.passed, check.detail) for check in task.checks] == [
            ("numbers supported", False, "")
        ]
        assert task.criticism == "revise"
        for number in (2, 0):
            written.complete(number)
        assert tasks_of(seen(written), written)[1].checks[0].detail == ""
        auditor = someone("aud@example.org", workspace_id=ann.workspace_id, roles=("auditor",))
        view = queries.plan(written.plan_id, as_caller(auditor))
        assert view.status == "complete"
        assert tasks_of(view, written)[1].checks[0].detail == "the number 41 is nowhere"

    def test_takes_as_many_queries_for_twenty_tasks_as_for_two(
        self, ann: Person, seen: Callable[[Written], PlanView]
    ) -> None:
        counts = []
        for parts in (2, 19):
            written = Written(ann).propose([f"Do {number}" for number in range(parts)])
            for number in range(1, parts):
                written.complete(number)
            written.decide(written.start(parts))
            with CaptureQueriesContext(connection) as captured:
                view = seen(written)
            assert view.task_count == parts + 1
            counts.append(len(captured))
        # Roles, the session, its signs of life, the acts of the unfinished run: besides the log itself.
        assert counts[0] == counts[1] <= 8


class TestRights:
    def test_are_those_of_the_session(self, ann: Person) -> None:
        written = Written(ann).propose(["Read", "Count"])
        run_id = written.complete(1)
        ordered()
        carl = someone("carl@example.org", workspace_id=ann.workspace_id, roles=("member", "reviewer"))
        auditor = someone("aud@example.org", workspace_id=ann.workspace_id, roles=("auditor",))
        bob = someone("bob@example.org", roles=("admin",))
        for person in (ann, auditor):
            assert queries.plan(written.plan_id, as_caller(person)).goal == "All of it"
            assert queries.run(run_id, as_caller(person)).plan_id == written.plan_id
            assert len(queries.runs_of(written.plan_id, as_caller(person)).items) == 1
            assert len(queries.plans_of(written.session_id, as_caller(person)).items) == 1
            assert len(queries.newest_runs(as_caller(person))) == 1
        for person in (carl, bob):
            self.sees_nothing(as_caller(person), written)
            with pytest.raises(RunNotFound):
                queries.run(run_id, as_caller(person))

    def test_end_with_the_session(self, ann: Person) -> None:
        written = Written(ann).propose(["Read", "Count"])
        run_id = written.complete(1)
        ordered()
        erase_session(session_id=written.session_id, actor=f"user:{ann.id}")
        self.sees_nothing(as_caller(ann), written)
        with pytest.raises(RunNotFound):
            queries.run(run_id, as_caller(ann))

    def sees_nothing(self, caller: Caller, written: Written) -> None:
        with pytest.raises(PlanNotFound):
            queries.plan(written.plan_id, caller)
        with pytest.raises(PlanNotFound):
            queries.runs_of(written.plan_id, caller)
        with pytest.raises(SessionNotVisible):
            queries.plans_of(written.session_id, caller)
        assert queries.plan_of_message(written.session_id, written.message_id, caller) is None
        assert queries.newest_runs(caller) == []

    def test_are_none_to_what_is_no_plan(self, ann: Person) -> None:
        written = Written(ann).propose(["Read", "Count"])
        run_id = written.start(1)
        for other in (uuid4(), run_id, written.session_id):
            with pytest.raises(PlanNotFound):
                queries.plan(other, as_caller(ann))
        for other in (uuid4(), written.plan_id, written.session_id):
            with pytest.raises(RunNotFound):
                queries.run(other, as_caller(ann))


class TestPlansOf:
    def test_lists_the_newest_first_with_what_they_came_to(self, ann: Person) -> None:
        first = Written(ann).propose([])
        second = Written(ann, session_id=first.session_id, question="More").propose(
            ["Read", "Count"], agents=["a", "b"]
        )
        second.complete(1)
        ordered()
        page = queries.plans_of(first.session_id, as_caller(ann), limit=1)
        (entry,) = page.items
        assert (entry["id"], entry["goal"], entry["task_count"]) == (second.plan_id, "More", 3)
        assert entry["tasks_by_status"] == {"blocked": 1, "complete": 1, "pending": 1}
        assert (entry["agents"], entry["costs"]) == (["a", "assistant", "b"], {"USD": 1500})
        page = queries.plans_of(first.session_id, as_caller(ann), cursor=page.next_cursor)
        assert [entry["id"] for entry in page.items] == [first.plan_id]
        assert queries.shapes(first.session_id, [first.plan_id, second.plan_id]) == {
            second.plan_id: {"tasks": 3, "agents": 3}
        }


class TestRun:
    def test_tells_its_acts_in_order(self, ann: Person) -> None:
        written = Written(ann).propose(["Read", "Count"])
        run_id = written.start(1)
        held = written.decide(
            run_id, outcome="escalate", permitted=False, approval_id=APPROVAL, reason="Ask."
        )
        assert queries.run(run_id, as_caller(ann)).status == "waiting"
        decided = written.decide(run_id, attempt=2)
        written.returned(run_id, decided, {"secret": 41})
        view = queries.run(run_id, as_caller(ann))
        assert view.status == "running"
        assert [(act.decision_id, act.outcome, act.reason, act.latency_ms) for act in view.acts] == [
            (held, "escalate", "Ask.", None),
            (decided, "allow", "", 12),
        ]

    def test_keeps_content_back_until_the_answer_was_given(self, ann: Person) -> None:
        written = Written(ann).propose(["Read", "Count"])
        run_id = written.complete(1)
        before = queries.run(run_id, as_caller(ann))
        assert not before.readable
        assert "result of 1" not in repr(asdict(before))
        assert "It is so" not in repr(asdict(before))
        for number in (2, 0):
            written.complete(number)
        # What a part said by itself nobody decided to show to whoever asked.
        assert not queries.run(run_id, as_caller(ann)).readable
        auditor = someone("aud@example.org", workspace_id=ann.workspace_id, roles=("auditor",))
        after = queries.run(run_id, as_caller(auditor))
        assert after.answer == "It is so."
        assert after.acts[0].content == {"preview": "", "result": {"secret": "result of 1"}}

    def test_keeps_content_back_where_the_answer_was_denied(self, ann: Person) -> None:
        written = Written(ann).propose([])
        run_id = written.start(0)
        written.returned(run_id, written.decide(run_id), {"secret": "held back"})
        written.fail(0, run_id, code="denied")
        assert "held back" not in repr(asdict(queries.run(run_id, as_caller(ann))))


class TestHeadline:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("Read\n it \t now", "Read it now"),
            ("a\u202ecod.exe", "a⟦U+202E⟧cod.exe"),
            ("<b>x</b>", "<b>x</b>"),
            ("x" * 40_000, "x" * 159 + "…"),
            ("", ""),
        ],
    )
    def test_is_one_line_that_hides_nothing(self, text: str, line: str) -> None:
        assert queries.headline(text) == line
