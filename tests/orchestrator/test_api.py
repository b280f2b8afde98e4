"""Agents, models, tools and traces over REST."""

from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from cartrita.eventstore import new_id
from cartrita.llm.models import Circuit
from cartrita.orchestrator.agents import all_agents
from cartrita.tools.registry import all_tools
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.tasks_app.written import Written, ordered

pytestmark = pytest.mark.flow


@pytest.fixture
def ann(database: Database) -> Person:
    return someone()


@pytest.fixture
def client(ann: Person) -> Client:
    return ann.program("read")


def got(client: Client, path: str) -> Any:
    answer = client.get(f"/api/v2{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def all_of(client: Client, path: str) -> list[dict[str, Any]]:
    """Return all entries of a list, two a page."""
    items, cursor = [], ""
    while True:
        page = got(client, f"{path}?limit=2{cursor}")
        assert len(page["items"]) <= 2
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = f"&cursor={page['next_cursor']}"


class TestAnswers:
    def test_hold_what_the_schema_says(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose([])
        ordered()
        schema = client.get("/api/schema", headers={"Accept": "application/json"}).json()
        components = schema["components"]["schemas"]
        for name, value in (
            ("AgentEntry", got(client, "/agents")["items"][0]),
            ("CatalogModel", got(client, "/models")["items"][0]),
            ("ToolEntry", got(client, "/tools")["items"][0]),
            ("CapabilityEntry", got(client, "/tools")["items"][0]["capability"]),
            ("TracePage", got(client, f"/traces/{written.message_id}")),
            ("TraceEntry", got(client, f"/traces/{written.message_id}")["items"][0]),
        ):
            assert set(value) == set(components[name]["properties"]), name


class TestAgents:
    def test_are_listed_with_whether_they_can_work(self, client: Client) -> None:
        found = all_of(client, "/agents")
        assert [one["name"] for one in found] == [each.name for each in all_agents()]
        for one in found:
            assert one["available"] is (one["why_not"] == "")
            assert one["health"] is None
            assert one == got(client, f"/agents/{one['name']}")

    def test_tell_how_they_did(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose([], agents=[])
        written.complete(0)
        ordered()
        did = [one for one in got(client, "/agents?limit=200")["items"] if one["health"]]
        assert [one["health"]["runs"] for one in did] in ([1], [])
        other = someone("bob@example.org").program("read")
        assert not [one for one in got(other, "/agents?limit=200")["items"] if one["health"]]

    def test_that_nobody_knows_do_not_exist(self, client: Client) -> None:
        answer = client.get("/api/v2/agents/nobody")
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_agent")


class TestModels:
    def test_are_listed_with_what_they_cost(self, client: Client) -> None:
        found = all_of(client, "/models")
        assert {"gpt-4o"} <= {one["name"] for one in found}
        [one] = [one for one in found if one["name"] == "gpt-4o"]
        assert one["price"]["currency"] == "USD"
        assert one["configured"] is False
        assert one["circuit"]["state"] == "closed"
        assert "base_url" not in one
        assert one == got(client, "/models/gpt-4o")
        premium = got(client, "/models?tier=premium")["items"]
        assert premium
        assert {each["tier"] for each in premium} == {"premium"}
        assert all(
            "tools" in each["capabilities"] for each in got(client, "/models?capability=tools")["items"]
        )
        assert client.get("/api/v2/models?tier=golden").json()["field"] == "tier"
        assert client.get("/api/v2/models/nothing").json()["code"] == "unknown_model"

    def test_tell_whether_they_are_called_now(self, client: Client) -> None:
        Circuit.objects.create(
            id=new_id(),
            provider="openai",
            model="gpt-4o",
            state="open",
            until=timezone.now(),
            failure="timed_out",
        )
        circuit = got(client, "/models/gpt-4o")["circuit"]
        assert (circuit["state"], circuit["failure"]) == ("open", "timed_out")


class TestTools:
    def test_are_listed_with_their_definition(self, client: Client) -> None:
        found = all_of(client, "/tools")
        assert [one["name"] for one in found] == [each.name for each in all_tools()]
        one = got(client, f"/tools/{found[0]['name']}")
        assert one == found[0]
        assert one["parameters_schema"]["type"] == "object"
        assert one["capability"]["call_count_30d"] == 0
        assert client.get("/api/v2/tools/nothing").status_code == 404


class TestTraces:
    def test_tell_how_an_answer_came_about(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose(["Read", "Count"])
        run_id = written.complete(1)
        ordered()
        whole = got(client, f"/traces/{written.message_id}?limit=200")
        assert whole["session_id"] == str(written.session_id)
        assert whole["items"][0]["event"] == "sessions_app.MessagePosted"
        paged = all_of(client, f"/traces/{written.message_id}")
        assert paged == whole["items"]
        named = [one for one in got(client, f"/traces/{run_id}?limit=200")["items"] if one["named"]]
        assert named
        assert {one["run_id"] for one in named} == {str(run_id)}

    def test_are_for_those_who_may_read_the_session(self, ann: Person, client: Client) -> None:
        written = Written(ann).propose([])
        ordered()
        colleague = someone("bob@example.org", workspace_id=ann.workspace_id)
        auditor = someone("eve@example.org", workspace_id=ann.workspace_id, roles=("auditor",))
        other = someone("dan@example.org", roles=("admin",))
        path = f"/api/v2/traces/{written.message_id}"
        codes = [person.program("read").get(path).status_code for person in (colleague, auditor, other)]
        assert codes == [404, 200, 404]
        assert client.get(f"/api/v2/traces/{uuid4()}").json()["code"] == "trace_not_found"
