"""`manage.py plan` and `manage.py runs`, and what a session's channel shows of a plan."""

import json
from io import StringIO
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command

from cartrita.eventstore import load
from sessions_app.channel import describe
from sessions_app.commands import erase_session
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.tasks_app.written import Written, ordered

pytestmark = pytest.mark.flow

HOSTILE = "<b>x</b>\n\u202egnp.exe"


@pytest.fixture
def ann(database: Database) -> Person:
    return someone()


def said(command: str, *arguments: str, user: str = "ann@example.org") -> str:
    out = StringIO()
    call_command(command, *arguments, "--user", user, stdout=out)
    return out.getvalue()


def written_by(ann: Person) -> Written:
    written = Written(ann).propose(
        ["Read", HOSTILE, "Write"], (1, "depends_on", 2), (2, "depends_on", 3), agents=["a", "b", "c"]
    )
    written.complete(1)
    written.criticise(1, "cited")
    ordered()
    return written


class TestPlan:
    def test_prints_the_tree(self, ann: Person) -> None:
        written = written_by(ann)
        for any_id in (written.plan_id, written.session_id, written.message_id):
            text = said("plan", str(any_id))
            assert f"plan {written.plan_id}: accepted, 1 of 4 tasks ended" in text
            assert "2. [complete] a: Read" in text
            assert "25 tokens; 0.001500 USD; allow by everything-else" in text
            assert "ok: cited" in text
            assert "blocked by 3" in text
            assert "3. [pending] b: <b>x</b> ⟦U+202E⟧gnp.exe" in text

    def test_prints_the_bill(self, ann: Person) -> None:
        written = written_by(ann)
        bill = written.bill(past=1)
        ordered()
        expected = f"bill: about {bill.tokens.p50} tokens ({bill.tokens.p10} to {bill.tokens.p90}), "
        text = said("plan", str(written.plan_id))
        assert expected in text
        assert "rests on 3 past tasks" in text

    def test_prints_json(self, ann: Person) -> None:
        written = written_by(ann)
        plan = json.loads(said("plan", str(written.plan_id), "--json"))
        assert [part["agent"] for part in plan["tasks"][0]["parts"]] == ["a", "b", "c"]

    def test_finds_nothing_of_others_nor_what_is_erased(self, ann: Person) -> None:
        written = written_by(ann)
        someone("bob@example.org", roles=("admin",))
        with pytest.raises(CommandError, match="plan_not_found"):
            said("plan", str(written.plan_id), user="bob@example.org")
        with pytest.raises(CommandError, match="plan_not_found"):
            said("plan", str(uuid4()))
        erase_session(session_id=written.session_id, actor=f"user:{ann.id}")
        for any_id in (written.plan_id, written.session_id, written.message_id):
            with pytest.raises(CommandError, match="plan_not_found"):
                said("plan", str(any_id))


class TestRuns:
    def test_are_listed(self, ann: Person) -> None:
        assert "No runs yet" in said("runs")
        written = written_by(ann)
        for arguments in ((), (str(written.plan_id),)):
            assert "answered a, attempt 1, 1 steps, 25 tokens, 0.001500 USD" in said("runs", *arguments)
        (entry,) = json.loads(said("runs", str(written.plan_id), "--json"))
        assert UUID(entry["plan_id"]) == written.plan_id
        with pytest.raises(CommandError, match="plan_not_found"):
            said("runs", str(uuid4()))


class TestChannel:
    def test_shows_tasks_and_what_became_of_them(self, ann: Person) -> None:
        written = written_by(ann)
        written.fail(2)
        shown = [(each.type_name.split(".")[1], describe(each)) for each in load(written.plan_id)]
        added = [d for name, d in shown if name == "TaskAdded" and d is not None]
        assert added[2]["intent"] == "<b>x</b> ⟦U+202E⟧gnp.exe"
        assert (added[2]["parent_id"], added[2]["agent"], added[2]["kind"]) == (
            str(written.tasks[0]),
            "b",
            "work",
        )
        assert "spec" not in added[2]
        by_name = dict(shown)
        edge, failed, judged = by_name["EdgeAdded"], by_name["TaskFailed"], by_name["PlanCriticised"]
        assert edge is not None
        assert failed is not None
        assert judged is not None
        assert edge["relation"] == "depends_on"
        assert (failed["code"], failed["reason"]) == ("broken", "The table has no rows.")
        assert (judged["checks"], judged["verdict"]) == ([{"name": "cited", "passed": True}], "accept")
        assert "41" not in json.dumps(judged["checks"])
        assert all(d is not None and d["plan_id"] == str(written.plan_id) for _, d in shown)

    def test_shows_what_the_plan_is_expected_to_use(self, ann: Person) -> None:
        written = written_by(ann)
        bill = written.bill()
        (shown,) = [
            describe(each) for each in load(written.plan_id) if each.type_name == "tasks_app.PlanBilled"
        ]
        assert shown is not None
        assert (shown["plan_id"], shown["tasks"]) == (str(written.plan_id), 4)
        assert shown["tokens"] == bill.tokens.model_dump()
        assert list(shown["costs"]) == [bill.costs[0].model_dump()]
        assert "lines" not in shown

    def test_shows_no_intent_of_an_erased_session(self, ann: Person) -> None:
        written = written_by(ann)
        erase_session(session_id=written.session_id, actor=f"user:{ann.id}")
        shown = [describe(each) for each in load(written.plan_id)]
        assert "Read" not in json.dumps(shown)
