"""`manage.py trace`: how an answer came about, told from what the running services recorded."""

import json
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command

from cartrita.eventstore import in_database_thread
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

    async def is_nothing_to(self, stranger: Person, *ids: UUID) -> None:
        for any_id in (*ids, uuid4()):
            with pytest.raises(CommandError, match="trace_not_found") as refused:
                await in_database_thread(traced, any_id, "bob@example.com")
            assert refused.value.returncode == 2
