"""How tools and agents did lately, from the outcomes that runs recorded."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.test import Client

from cartrita.eventstore import Append, Context, Event, append, create_data_key, new_id
from cartrita.tools.events import ToolFailed, ToolReturned
from cartrita.tools.registry import tool
from tasks_app.capabilities import Capability, agent_record, capability_index
from tasks_app.run import RunFinished, RunStarted
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.tasks_app.test_projections import follow

NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)
OLD = "0" * 64


@pytest.fixture
def ann(database: Database) -> Person:
    return someone()


def context(person: Person) -> Context:
    return Context(
        workspace_id=person.workspace_id,
        session_id=new_id(),
        key_id=create_data_key(subject_id=person.id, scope="session"),
    )


def record(person: Person, *events: Event, at: datetime = NOON) -> UUID:
    stream_id = new_id()
    append(Append(stream_id, 0, events, context(person)), recorded_at=at)
    return stream_id


def returned(latency_ms: int = 10, version: str = "", cost_tokens: int = 0) -> ToolReturned:
    return ToolReturned(
        tool="calculate",
        definition_hash=version or tool("calculate").definition_hash,
        idempotency_key="k",
        decision_id=new_id(),
        result={},
        cost_tokens=cost_tokens,
        latency_ms=latency_ms,
    )


def failed(code: str = "timed_out", latency_ms: int = 0, **more: Any) -> ToolFailed:
    return ToolFailed(
        **{
            "tool": "calculate",
            "definition_hash": tool("calculate").definition_hash,
            "idempotency_key": "k",
            "code": code,
            "message": "no",
            "latency_ms": latency_ms,
            **more,
        }
    )


def calculate(person: Person, at: datetime = NOON, version: str = "") -> Capability:
    wanted = ("calculate", version or tool("calculate").definition_hash)
    (found,) = [
        one
        for one in capability_index(at, workspace_id=person.workspace_id)
        if (one.tool_name, one.version) == wanted
    ]
    return found


class TestCapabilityIndex:
    def test_adds_up_the_last_30_days(self, ann: Person, database: Database) -> None:
        record(ann, returned(1000), at=NOON - timedelta(days=30))
        record(ann, returned(10, cost_tokens=4), failed(latency_ms=50), at=NOON - timedelta(days=29))
        record(ann, returned(30), failed("cancelled", latency_ms=999))
        follow()
        found = calculate(ann)
        assert found.call_count_30d == 4
        assert found.success_rate_30d == pytest.approx(2 / 3)
        assert (found.avg_latency_ms, found.avg_cost_tokens) == (30, 2)
        assert (found.last_success, found.last_failure) == (NOON, NOON - timedelta(days=29))
        assert (found.category, found.safety_level) == (tool("calculate").category, "safe")
        with database.as_owner():
            call_command("rebuild_projections", "tool_capabilities", check=True)

    def test_tells_of_any_time(self, ann: Person) -> None:
        record(ann, returned(), at=NOON)
        record(ann, returned(), at=NOON + timedelta(days=1))
        follow()
        calls = [
            calculate(ann, NOON + timedelta(days=days)).call_count_30d for days in (-1, 0, 1, 29, 30, 31)
        ]
        assert calls == [0, 1, 2, 2, 1, 0]

    def test_keeps_definitions_and_workspaces_apart(self, ann: Person) -> None:
        bob = someone("bob@example.org")
        record(ann, returned(), returned(version=OLD))
        record(bob, failed())
        follow()
        assert calculate(ann).success_rate_30d == 1
        old = calculate(ann, version=OLD)
        assert (old.call_count_30d, old.category, old.safety_level) == (1, None, None)
        assert calculate(bob).success_rate_30d == 0
        everybodys = [one for one in capability_index(NOON) if one.tool_name == "calculate"]
        assert [(one.version == OLD, one.call_count_30d) for one in everybodys] == [(False, 2), (True, 1)]

    def test_leaves_calls_out_that_never_began(self, ann: Person) -> None:
        record(ann, failed("invalid_parameters", definition_hash=""))
        follow()
        found = calculate(ann)
        assert (found.call_count_30d, found.success_rate_30d, found.avg_latency_ms) == (0, None, None)


class TestAgentRecord:
    def run(
        self, person: Person, agent: str, status: Any, *, tokens: int = 5, seconds: int = 1, days: int = 1
    ) -> None:
        at = NOON - timedelta(days=days)
        begun = RunStarted(plan_id=new_id(), task_id=new_id(), attempt=1, agent=agent, loop_version=1)
        ended = RunFinished(
            status=status, answer="", citations=[], model="", supported=None, completion_tokens=tokens
        )
        stream_id, its = new_id(), context(person)
        append(Append(stream_id, 0, [begun], its), recorded_at=at)
        append(Append(stream_id, 1, [ended], its), recorded_at=at + timedelta(seconds=seconds))

    def test_tells_success_and_medians(self, ann: Person) -> None:
        for tokens, seconds in ((10, 1), (30, 2), (1000, 60)):
            self.run(ann, "writer", "answered", tokens=tokens, seconds=seconds)
        self.run(ann, "writer", "failed", seconds=100)
        self.run(ann, "writer", "stopped", seconds=100)
        self.run(ann, "writer", "failed", days=40)
        self.run(ann, "critic", "denied")
        follow()
        found = agent_record(ann.workspace_id, NOON)
        writer, critic = found["writer"], found["critic"]
        assert (writer.runs, writer.success_rate) == (4, 0.75)
        assert (writer.p50_latency_ms, writer.p50_tokens) == (2000, 30)
        assert (critic.runs, critic.success_rate, critic.p50_tokens) == (1, 0, None)
        assert agent_record(new_id(), NOON) == {}


class TestPages:
    @pytest.mark.parametrize("model", ["tooldayrow", "snapshotrow", "billlinerow"])
    def test_are_shown_to_who_may_look(self, ann: Person, model: str) -> None:
        record(ann, returned(), at=datetime.now(UTC))
        follow()
        ann.user.is_staff = ann.user.is_superuser = True
        ann.user.save()
        client = Client()
        client.force_login(ann.user, backend="django.contrib.auth.backends.ModelBackend")
        answer = client.get(f"/admin/tasks_app/{model}/")
        assert answer.status_code == 200
        assert client.get(f"/admin/tasks_app/{model}/add/").status_code == 403
        if model == "tooldayrow":
            page = answer.content.decode()
            assert "The last 30 days" in page
            assert "calculate" in page
