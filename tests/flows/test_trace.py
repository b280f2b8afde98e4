"""`manage.py trace`: how an answer came about, told from what the running services recorded."""

import json
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cartrita.eventstore import in_database_thread, load, store
from governance.decision import DecisionMade
from sessions_app.commands import erase_session
from tests.flows.conftest import Person, ScriptedModel, reply_to, running
from tests.flows.governed import Reviewer, a_reviewer, escalating, registered, requested, rules
from tests.flows.test_plans import call, plans, task

pytestmark = pytest.mark.usefixtures("consistent")

ASKED = "Send the first letter. Then send the second letter?"
ANN = "ann@example.com"


def traced(any_id: UUID, user: str = ANN) -> list[dict[str, Any]]:
    out = StringIO()
    call_command("trace", str(any_id), "--user", user, "--json", stdout=out)
    entries: list[dict[str, Any]] = json.loads(out.getvalue())["entries"]
    return entries


def printed(any_id: UUID, user: str = ANN) -> str:
    out = StringIO()
    call_command("trace", str(any_id), "--user", user, stdout=out)
    return out.getvalue()


def names(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["event"].split(".")[1] for entry in entries]


def hashes_of(decision_ids: set[UUID]) -> dict[str, str]:
    found = {one: load(one)[0].event for one in decision_ids}
    return {str(one): event.request_hash for one, event in found.items() if isinstance(event, DecisionMade)}


@pytest.fixture
def reviewer(person: Person) -> Reviewer:
    return a_reviewer(person)


@pytest.fixture
def sending_needs_leave(tmp_path: Path, settings: Any) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(rules(escalating("send-needs-leave", "tool_call", tools=["send_text"])))
    settings.POLICY_FILE = str(path)


class TestTrace:
    async def test_tells_the_way_of_a_plan_of_several_tasks(
        self, person: Person, model: ScriptedModel, tmp_path: Path
    ) -> None:
        plans(model, call("a", "one"), task("b", "Say it.", "a"))
        with registered("send_text", tmp_path / "sent"):
            async with running():
                session_id = await person.opens_session()
                other_id = await person.says(session_id, "Hello")
                await reply_to(session_id, other_id)
                message_id = await person.says(session_id, ASKED, agent=None)
                reply = await reply_to(session_id, message_id)
        text = await in_database_thread(printed, message_id)
        order = (
            f"message {message_id} by user:{person.user_id}: {ASKED}",
            "planner is asked, run",
            "model_call scripted",
            "scripted answered in",
            "planner: answered",
            f"plan {reply.plan_id} by model-1: 3 tasks",
            "task 3: comes after task 2 (depends_on)",
            "bill: about",
            "plan: allow by ",
            "task 2: assistant begins attempt 1",
            "task 2: tool_call send_text: allow by",
            "task 2: send_text returned in",
            "task 2: complete",
            "task 3: assistant begins attempt 1",
            "task 3: complete",
            "task 1: assistant begins attempt 1",
            "task 1: message_out",
            "task 1: complete",
            "plan complete",
            f"reply {reply.message_id}, answered: All of it is done.",
        )
        places = [text.find(words) for words in order]
        assert -1 not in places, (order[places.index(-1)], text)
        assert "Hello" not in text
        entries = await in_database_thread(traced, message_id)
        assert [each["at"] for each in entries] == sorted(each["at"] for each in entries)
        by_model = next(each for each in entries if each["event"] == "llm.ModelAnswered" and each["task"])
        assert by_model["tokens"] > 0
        assert by_model["outcome"] == "succeeded"
        decided = [each for each in entries if each["event"] == "tasks_app.ActDecided"]
        assert by_model["decision_id"] in {each["decision_id"] for each in decided}
        # Each id of the way leads to the same way.
        for any_id in (reply.plan_id, reply.message_id):
            assert await in_database_thread(traced, any_id) == entries
        for any_id in (reply.run_id, UUID(by_model["decision_id"])):
            found = await in_database_thread(traced, any_id)
            assert names(found) == names(entries)
            marked = [each for each in found if each["named"]]
            assert marked
            assert {str(any_id)} <= {each["run_id"] for each in marked} | {
                each["decision_id"] for each in marked
            }
        assert len({each["trace_id"] for each in entries}) == 1
        assert f"trace {entries[0]['trace_id']}" in text
        hashes = await in_database_thread(hashes_of, {UUID(each["decision_id"]) for each in decided})
        assert {each["decision_id"]: each["inputs_hash"] for each in decided} == hashes
        assert all(f"inputs {one[:12]}" in text for one in hashes.values())
        whole = await in_database_thread(traced, session_id)
        assert {each["message_id"] for each in whole} == {str(message_id), str(other_id)}

    @pytest.mark.usefixtures("sending_needs_leave")
    async def test_tells_who_approved(
        self, person: Person, reviewer: Reviewer, stranger: Person, model: ScriptedModel, tmp_path: Path
    ) -> None:
        plans(model, call("a", "one"), task("b", "Say it.", "a"))
        with registered("send_text", tmp_path / "sent"):
            async with running():
                session_id = await person.opens_session()
                message_id = await person.says(session_id, ASKED, agent=None)
                approval_id = await requested(session_id)
                await reviewer.approves(approval_id, text="a secret remark")
                await reply_to(session_id, message_id)
        text = await in_database_thread(printed, message_id)
        order = (
            "1 act to be approved",
            "task 2: tool_call send_text: escalate by send-needs-leave",
            f"waits for approval {approval_id}",
            f"user:{reviewer.user_id} votes: approve",
            f"approved by user:{reviewer.user_id} (once)",
            "tool_call send_text: allow by",
            "send_text returned in",
            "reply",
        )
        places = [text.find(words) for words in order]
        assert -1 not in places, (order[places.index(-1)], text)
        assert "secret" not in text
        named = [each for each in await in_database_thread(traced, approval_id) if each["named"]]
        assert {"ApprovalRequested", "ApprovalGranted", "ActDecided"} <= set(names(named))
        await self.is_nothing_to(stranger, approval_id, message_id, session_id)
        await in_database_thread(erase_session, session_id=session_id, actor=person.actor)
        for any_id in (approval_id, message_id, session_id):
            with pytest.raises(CommandError, match="trace_not_found") as refused:
                await in_database_thread(traced, any_id)
            assert refused.value.returncode == 2

    async def test_reads_the_way_by_one_query(
        self, person: Person, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, "What is the answer?")
            reply = await reply_to(session_id, message_id)
        asked: list[str] = []
        execute = store.execute

        def counted(statement: Any, parameters: Any = ()) -> Any:
            asked.append(statement)
            return execute(statement, parameters)

        monkeypatch.setattr(store, "execute", counted)

        def queries(any_id: UUID) -> tuple[list[str], list[str]]:
            asked.clear()
            with CaptureQueriesContext(connection) as others:
                assert traced(any_id)
            return [*asked], [one["sql"] for one in others]

        for any_id in (message_id, reply.message_id, reply.plan_id, reply.run_id, session_id):
            of_events, others = await in_database_thread(queries, any_id)
            assert [one for one in of_events if " event " in one] == of_events[:1]
            # The rest says who looks and whether they may, and opens the session's key.
            assert len(of_events) <= 2
            assert not any('"event"' in one or '"log"' in one for one in others)
            assert len(others) <= 8, others

    async def is_nothing_to(self, stranger: Person, *ids: UUID) -> None:
        for any_id in (*ids, uuid4()):
            with pytest.raises(CommandError, match="trace_not_found") as refused:
                await in_database_thread(traced, any_id, "bob@example.com")
            assert refused.value.returncode == 2
