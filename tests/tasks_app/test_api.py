"""Plans and runs over REST."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client

from sessions_app.commands import erase_session
from tasks_app.plan import Foreseen
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.tasks_app.trees import NOON
from tests.tasks_app.written import Written, ordered

pytestmark = pytest.mark.flow

HOSTILE = "<img src=x onerror=alert(1)> \u202egnp.exe"
ASKS = Foreseen(act="tool_call", subject="send", outcome="escalate", rule="send-needs-leave", sure=True)


@pytest.fixture
def ann(database: Database) -> Person:
    return someone()


@pytest.fixture
def client(ann: Person) -> Client:
    return ann.program("read")


def got(client: Client, path: str) -> Any:
    answer = client.get(f"/api/v2{path}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.json()


def refused(client: Client, path: str) -> tuple[int, str]:
    answer = client.get(f"/api/v2{path}")
    assert answer.headers["Content-Type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def paths(written: Written, run_id: UUID) -> dict[str, str]:
    """Return each address with the code of what is not found there."""
    return {
        f"/plans/{written.plan_id}": "plan_not_found",
        f"/plans/{written.plan_id}/runs": "plan_not_found",
        f"/sessions/{written.session_id}/plans": "session_not_found",
        f"/runs/{run_id}": "run_not_found",
        f"/plans/{written.plan_id}/edges": "plan_not_found",
        f"/plans/{written.plan_id}/snapshots": "plan_not_found",
    }


class TestPlans:
    def test_are_trees_as_json(self, ann: Person, client: Client) -> None:
        written = Written(ann, question=HOSTILE).propose(["Read", HOSTILE], (1, "refines", 2))
        written.complete(1)
        written.criticise(1, "cited")
        plan = got(client, f"/plans/{written.plan_id}")
        (root,) = plan["tasks"]
        first, second = root["parts"]
        assert (plan["goal"], second["intent"]) == (HOSTILE, HOSTILE)
        assert (root["parent_id"], first["parent_id"]) == (None, root["id"])
        assert second["depends_on"] == [{"task_id": first["id"], "relation": "refines", "weight": 100}]
        assert first["verdict"]["outcome"] == "allow"
        assert first["costs"] == plan["costs"] == {"USD": 1500}
        assert first["checks"] == [{"name": "cited", "passed": True, "detail": ""}]
        assert plan["verdict"]["permitted"] is True

    def test_hold_what_the_schema_says(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose(["Read", "Count"])
        written.bill(past=3, foreseen=[ASKS])
        run_id = written.complete(1)
        ordered()
        schema = client.get("/api/schema", headers={"Accept": "application/json"}).json()
        components = schema["components"]["schemas"]
        plan = got(client, f"/plans/{written.plan_id}")
        (entry,) = got(client, f"/sessions/{written.session_id}/plans")["items"]
        (run,) = got(client, f"/plans/{written.plan_id}/runs")["items"]
        detail = got(client, f"/runs/{run_id}")
        for name, value in (
            ("PlanDetail", plan),
            ("BillEntry", plan["bill"]),
            ("BillLineEntry", plan["bill"]["lines"][1]),
            ("ForeseenAct", plan["bill"]["lines"][1]["foreseen"][0]),
            ("PlanTask", plan["tasks"][0]),
            ("ActVerdict", plan["tasks"][0]["parts"][0]["verdict"]),
            ("PlanSummary", entry),
            ("RunSummary", run),
            ("RunDetail", detail),
            ("ActEntry", detail["acts"][0]),
        ):
            assert set(value) == set(components[name]["properties"]), name

    def test_have_a_bill_beside_what_was_used(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose(["Read", "Count"], agents=["a", "b"])
        assert got(client, f"/plans/{written.plan_id}")["bill"] is None
        event = written.bill(past=3, foreseen=[ASKS])
        run_id = written.start(1)
        for outcome, more in (("escalate", {"approval_id": uuid4()}), ("deny", {}), ("allow", {})):
            written.decide(run_id, outcome=outcome, permitted=outcome == "allow", **more)
        written.decide(run_id, step=2, outcome="throttle", permitted=False, retry_after=NOON)
        plan = got(client, f"/plans/{written.plan_id}")
        bill = plan["bill"]
        assert bill["tokens"] == event.tokens.model_dump()
        assert bill["costs"] == [event.costs[0].model_dump()]
        assert (bill["approvals"], bill["throttles"], bill["denials"]) == (1, 0, 0)
        assert (bill["samples"], bill["estimated"]) == (6, 0)
        assert bill["lines"][1]["foreseen"][0]["rule"] == "send-needs-leave"
        assert (plan["asked_count"], plan["throttled_count"], plan["denied_count"]) == (1, 1, 1)

    def test_come_in_pages(self, ann: Person, client: Client) -> None:
        first = Written(ann).propose(["Read", "Count"])
        second = Written(ann, session_id=first.session_id).propose([])
        runs = [first.complete(number) for number in (1, 2, 0)]
        ordered()
        page = got(client, f"/sessions/{first.session_id}/plans?limit=1")
        assert [each["id"] for each in page["items"]] == [str(second.plan_id)]
        page = got(client, f"/sessions/{first.session_id}/plans?cursor={page['next_cursor']}")
        assert [each["id"] for each in page["items"]] == [str(first.plan_id)]
        assert page["next_cursor"] is None
        page = got(client, f"/plans/{first.plan_id}/runs?limit=2")
        rest = got(client, f"/plans/{first.plan_id}/runs?cursor={page['next_cursor']}")
        assert [each["id"] for each in page["items"] + rest["items"]] == [str(each) for each in runs]
        assert refused(client, f"/plans/{first.plan_id}/runs?cursor=x") == (400, "bad_input")
        assert refused(client, f"/plans/{first.plan_id}/runs?limit=0") == (400, "bad_input")


class TestEdges:
    def test_come_in_pages(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose(["Read", "Count", "Tell"], (1, "depends_on", 2), (2, "enables", 3))
        ordered()
        path = f"/plans/{written.plan_id}/edges"
        first = got(client, f"{path}?limit=1")
        rest = got(client, f"{path}?cursor={first['next_cursor']}")
        assert [one["relation"] for one in first["items"] + rest["items"]] == ["depends_on", "enables"]
        assert rest["next_cursor"] is None


class TestSnapshots:
    def test_tell_the_nodes_of_a_plan_without_what_people_wrote(self, ann: Person, client: Client) -> None:
        written = Written(ann, question=HOSTILE).propose(["Read", HOSTILE])
        written.complete(1)
        ordered()
        path = f"/plans/{written.plan_id}/snapshots"
        nodes = got(client, path)["items"]
        assert [one["node_name"] for one in nodes] == ["planned", "task_complete"]
        one = got(client, f"{path}/{nodes[1]['version']}")
        assert {name: one[name] for name in nodes[1]} == nodes[1]
        assert len(one["state"]["tasks"]) == 3
        assert "onerror" not in json.dumps([nodes, one])
        stranger = someone("carl@example.org", workspace_id=ann.workspace_id).program()
        assert refused(stranger, f"{path}/{nodes[1]['version']}") == (404, "plan_not_found")
        assert refused(client, f"{path}/9999") == (404, "unknown_snapshot")
        assert refused(client, f"{path}/{10**30}") == (404, "unknown_snapshot")


class TestRuns:
    def test_give_content_after_the_answer(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose([])
        run_id = written.start(0)
        written.returned(run_id, written.decide(run_id), {"secret": HOSTILE})
        assert HOSTILE not in json.dumps(got(client, f"/runs/{run_id}"), ensure_ascii=False)
        written.complete(0, run_id)
        run = got(client, f"/runs/{run_id}")
        assert run["acts"][0]["content"]["result"] == {"secret": HOSTILE}
        assert (run["status"], run["answer"], run["readable"]) == ("answered", "It is so.", True)
        assert (run["acts"][0]["latency_ms"], run["cost_micros"]) == (12.0, 1500)


class TestRights:
    def test_hide_what_belongs_to_others(self, ann: Person) -> None:
        written = Written(ann).propose(["Read", "Count"])
        addresses = paths(written, written.complete(1))
        ordered()
        for other in (
            someone("carl@example.org", workspace_id=ann.workspace_id),
            someone("bob@example.org", roles=("admin",)),
        ):
            program = other.program("read")
            for path, code in addresses.items():
                assert refused(program, path) == (404, code)
        auditor = someone("aud@example.org", workspace_id=ann.workspace_id, roles=("auditor",))
        for path in addresses:
            got(auditor.program("read"), path)

    def test_end_with_the_session(self, ann: Person, client: Client) -> None:
        written = Written(ann, question="A secret").propose(["A secret part", "Count"])
        addresses = paths(written, written.complete(1))
        ordered()
        erase_session(session_id=written.session_id, actor=f"user:{ann.id}")
        for path, code in addresses.items():
            answer = client.get(f"/api/v2{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, code)
            assert b"secret" not in answer.content

    def test_need_somebody_with_the_scope(self, ann: Person) -> None:
        written = Written(ann).propose(["Read", "Count"])
        for path in paths(written, written.complete(1)):
            assert Client().get(f"/api/v2{path}").status_code == 401
            assert refused(ann.program("write"), path) == (403, "scope_missing")

    def test_find_nothing_by_other_ids(self, client: Client) -> None:
        for kind, code in (("plans", "plan_not_found"), ("runs", "run_not_found")):
            assert refused(client, f"/{kind}/{uuid4()}") == (404, code)
