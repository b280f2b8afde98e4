"""Bills from what was recorded, what policy and budgets say to them, and how they turned out."""

from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command

from cartrita.eventstore import Append, append, new_id
from cartrita.llm.catalog import ModelEntry, model
from cartrita.orchestrator import pricing
from cartrita.orchestrator.pricing import Coverage, Planned
from cartrita.tools.registry import tool
from tasks_app.models import BillLineRow, PlanRow
from tasks_app.plan import (
    PlanAccepted,
    PlanBilled,
    PlanCompleted,
    PlanProposed,
    TaskAdded,
    TaskCompleted,
    TaskStarted,
)
from tasks_app.run import RunFinished, RunStarted
from tests.databases import Database
from tests.governance.policies import rule
from tests.governance.steps import EVERY_KIND, Place
from tests.tasks_app.test_projections import follow


@pytest.fixture
def place(database: Database) -> Place:
    found = Place()
    found.follows(rule("all", "allow", match={"kinds": EVERY_KIND}))
    return found


@pytest.fixture
def small(database: Database) -> ModelEntry:
    return model("gpt-4o-mini")


def bill_of(place: Place, *tasks: Planned) -> PlanBilled:
    return pricing.bill(
        workspace_id=place.workspace_id,
        session_id=place.session_id,
        user_id=place.user_id,
        roles=frozenset({"member"}),
        tasks=tasks,
    )


def planned(entry: ModelEntry | None, *, task_id: UUID | None = None, **more: Any) -> Planned:
    known = {"estimated_prompt_tokens": 1000, "max_output_tokens": 500, "agent": "assistant"}
    return Planned(task_id=task_id or new_id(), model=entry, **{**known, **more})


def lived(place: Place, entry: ModelEntry | None, *, prompt: int, completion: int, **more: Any) -> PlanBilled:
    """Record a plan of one task from its bill to its end."""
    plan_id, run_id, task = new_id(), new_id(), planned(entry, **more)
    bill = bill_of(place, task)
    used = prompt + completion
    proposed = PlanProposed(
        message_id=new_id(), root_task_id=task.task_id, goal="g", planner="rules", estimated_tokens=0
    )
    added = TaskAdded(task_id=task.task_id, parent_id=None, intent="i", spec={}, agent=task.agent)
    begun = [
        PlanAccepted(decision_id=new_id(), outcome="allow"),
        TaskStarted(task_id=task.task_id, run_id=run_id, attempt=1),
    ]
    ended = [
        TaskCompleted(task_id=task.task_id, run_id=run_id, tokens=used),
        PlanCompleted(status="complete", tokens=used),
    ]
    run = [
        RunStarted(plan_id=plan_id, task_id=task.task_id, attempt=1, agent=task.agent, loop_version=1),
        RunFinished(
            status="answered",
            answer="a",
            citations=[],
            model="m",
            supported=None,
            prompt_tokens=prompt,
            completion_tokens=completion,
        ),
    ]
    append(
        Append(plan_id, 0, [proposed, added, bill, *begun, *ended], place.context),
        Append(run_id, 0, run, place.context),
    )
    return bill


class TestBill:
    def test_rests_on_what_such_tasks_used(self, place: Place, small: ModelEntry, database: Database) -> None:
        for _ in range(9):
            lived(place, small, prompt=900, completion=100)
        lived(place, small, prompt=5, completion=5, agent="writer")
        lived(place, None, prompt=0, completion=0, tool="calculate", arguments={"expression": "1"})
        follow()
        elsewhere = Place(user_id=place.user_id)
        elsewhere.follows(rule("all", "allow", match={"kinds": EVERY_KIND}))
        (line,) = bill_of(place, planned(small, estimated_prompt_tokens=2000)).lines
        assert (line.samples, line.tokens.p10, line.tokens.p90) == (9, 1900, 1900)
        assert line.cost.p50 == small.price.cost(prompt_tokens=1800, completion_tokens=100)
        assert bill_of(elsewhere, planned(small)).lines[0].samples == 0
        with database.as_owner():
            call_command("rebuild_projections", "plans", "bills", "runs", check=True)

    def test_is_kept_beside_its_plan(self, place: Place, small: ModelEntry) -> None:
        bill = lived(place, small, prompt=900, completion=100)
        follow()
        row, line = PlanRow.objects.get(), BillLineRow.objects.get()
        assert (row.estimated_tokens_p10, row.estimated_tokens_p90) == (bill.tokens.p10, bill.tokens.p90)
        assert (row.estimated_micros_p50, row.estimated_currency) == (bill.costs[0].p50, "USD")
        assert (line.id, line.tokens_p50) == (bill.lines[0].task_id, bill.lines[0].tokens.p50)

    def test_tells_what_policy_would_say(self, place: Place, small: ModelEntry) -> None:
        place.follows(
            rule("all", "allow", match={"kinds": EVERY_KIND}),
            rule("ask", "escalate", "args.expression == '1 + 1'", match={"kinds": ["tool_call"]}),
            rule("never", "deny", match={"kinds": ["model_call"]}),
        )
        asked = planned(None, tool="calculate", arguments={"expression": "1 + 1"})
        other = planned(None, tool="calculate", arguments={"expression": "2"})
        bill = bill_of(place, asked, other, planned(small))
        assert (bill.approvals, bill.denials, bill.throttles) == (1, 1, 0)
        assert [(one.subject, one.rule, one.sure) for line in bill.lines for one in line.foreseen] == [
            (tool("calculate").name, "ask", True),
            (small.name, "never", True),
        ]


class TestShortfall:
    def said(self, place: Place, bill: PlanBilled) -> str | None:
        return pricing.shortfall(
            bill, workspace_id=place.workspace_id, session_id=place.session_id, user_id=place.user_id
        )

    def test_is_none_where_everything_fits(self, place: Place, small: ModelEntry) -> None:
        place.has_budget(tokens=10_000)
        assert self.said(place, bill_of(place, planned(small))) is None

    def test_names_the_budget_and_the_remedy(self, place: Place, small: ModelEntry) -> None:
        place.has_budget(tokens=2000)
        said = self.said(place, bill_of(place, planned(small), planned(small)))
        assert said is not None
        assert "'session total' leaves 2,000 tokens" in said
        assert "raise it" in said

    def test_sets_money_against_its_currency(self, place: Place, small: ModelEntry) -> None:
        place.has_budget(micros=10, currency="EUR")
        bill = bill_of(place, planned(small))
        assert self.said(place, bill) is None
        place.has_budget(micros=10, scope_kind="user")
        assert "0.00001 USD" in (self.said(place, bill) or "")

    def test_counts_for_a_budget_what_it_is_about(self, place: Place, small: ModelEntry) -> None:
        place.has_budget(tokens=1500, scope_kind="agent", scope="writer")
        tasks = [planned(small), planned(small), planned(small, agent="writer")]
        assert self.said(place, bill_of(place, *tasks)) is None
        assert "agent total" in (self.said(place, bill_of(place, *tasks, tasks[2])) or "")


class TestCoverage:
    def test_counts_plans_that_used_what_was_foreseen(self, place: Place, small: ModelEntry) -> None:
        lived(place, small, prompt=1000, completion=250)
        lived(place, small, prompt=9000, completion=250)
        lived(place, None, prompt=0, completion=0, estimated_prompt_tokens=0, max_output_tokens=0)
        follow()
        found = pricing.coverage(place.workspace_id)
        assert (found, found.inside_80) == (Coverage(plans=2, inside=1), 0.5)
        assert pricing.coverage(place.workspace_id, least_samples=1).inside_80 is None
