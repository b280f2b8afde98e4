"""`/tool {json}` in a message: a call without a model, decided, settled and answered like any other act."""

import asyncio
from pathlib import Path

import pytest

from cartrita.tools.events import ToolFailed, ToolReturned
from governance.decision import ActSettled, DecisionMade
from sessions_app import commands
from tasks_app.plan import PlanProposed, TaskAdded
from tasks_app.run import ActDecided
from tests.flows.conftest import Person, ScriptedModel, reply_to, running, until
from tests.flows.governed import effects, events_of, of_type, registered

pytestmark = pytest.mark.usefixtures("consistent")


class TestSlashCall:
    async def test_is_answered_without_a_model(self, person: Person, model: ScriptedModel) -> None:
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, '/calculate {"expression": "6 * 7"}')
            events = await events_of(session_id)
        assert reply.outcome == "answered"
        assert reply.content == '```json\n{\n  "expression": "6 * 7",\n  "value": "42"\n}\n```'
        assert model.productions("started") == []
        (proposed,) = of_type(events, PlanProposed)
        (task,) = of_type(events, TaskAdded)
        assert proposed.planner == "slash"
        assert task.spec["tool"] == "calculate"
        kinds = [each.subject_kind for each in of_type(events, DecisionMade)]
        assert kinds == ["plan", "tool_call", "message_out"]
        assert [each.outcome for each in of_type(events, ActSettled)] == ["succeeded"] * 3

    async def test_records_its_outcome_with_the_next_decision(
        self, person: Person, model: ScriptedModel
    ) -> None:
        async with running():
            session_id = await person.opens_session()
            await person.asks(session_id, "/current_time")
            events = await events_of(session_id)
        (returned,) = [each for each in events if isinstance(each.event, ToolReturned)]
        together = [each.event for each in events if each.recorded_at == returned.recorded_at]
        assert {type(event).__name__ for event in together} == {
            "ToolReturned", "ActSettled", "DecisionMade", "ActDecided",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("/calculat {}", "No tool is called 'calculat'; did you mean /calculate?"),
            ('/calculate {"expression": "1",}', "trailing comma is not allowed at line 1, column 30"),
            ("/calculate {}", "Invalid parameters for calculate: expression: missing."),
            (
                '/calculate {"expression": "1", "precision": 3}',
                "precision: not a parameter of this tool, which takes expression",
            ),
            ('/calculate {"expression": "1 / 0"}', "There is no answer: "),
        ],
    )
    async def test_says_what_is_wrong_with_it(
        self, text: str, said: str, person: Person, model: ScriptedModel
    ) -> None:
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, text)
        assert reply.outcome == "failed"
        assert said in reply.content
        assert model.productions("started") == []

    async def test_is_ordinary_text_behind_two_slashes(self, person: Person, model: ScriptedModel) -> None:
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, '//calculate {"expression": "1"}')
        assert reply.content == "The scripted answer."

    async def test_stops_when_the_person_asks(self, person: Person, tmp_path: Path) -> None:
        path = tmp_path / "sent.txt"
        with registered("send_text", path, seconds=60):
            async with running():
                session_id = await person.opens_session()
                message_id = await person.says(session_id, '/send_text {"text": "hello"}')
                await until(session_id, lambda each: isinstance(each.event, ActDecided))
                await asyncio.to_thread(commands.cancel_turn, session_id=session_id, actor=person.actor)
                reply = await reply_to(session_id, message_id)
                events = await events_of(session_id)
        assert reply.outcome == "stopped"
        assert [each.code for each in of_type(events, ToolFailed)] == ["cancelled"]
        assert {each.outcome for each in of_type(events, ActSettled)} == {"cancelled"}


async def begun(path: Path) -> None:
    """Wait until the tool has had its effect."""
    while not effects(path):  # noqa: ASYNC110 - a file
        await asyncio.sleep(0.02)


class TestBrokenOffCall:
    async def test_is_repeated_where_that_does_no_harm(self, person: Person, tmp_path: Path) -> None:
        path = tmp_path / "sent.txt"
        with registered("send_text", path, seconds=60):
            async with running():
                session_id = await person.opens_session()
                message_id = await person.says(session_id, '/send_text {"text": "hello"}')
                await begun(path)
        with registered("send_text", path):
            async with running():
                reply = await reply_to(session_id, message_id)
                events = await events_of(session_id)
        assert reply.outcome == "answered"
        assert effects(path) == ["hello", "hello"]
        (returned,) = of_type(events, ToolReturned)
        run_id = str(reply.run_id)
        assert returned.idempotency_key == f"{run_id}:1"
        assert sorted(each.outcome for each in of_type(events, ActSettled)) == [
            "succeeded", "succeeded", "succeeded", "unknown",
        ]  # fmt: skip

    async def test_is_left_to_the_person_where_it_could_be_done_twice(
        self, person: Person, tmp_path: Path
    ) -> None:
        path = tmp_path / "sent.txt"
        with registered("send_text", path, seconds=60, idempotent=False):
            async with running():
                session_id = await person.opens_session()
                message_id = await person.says(session_id, '/send_text {"text": "hello"}')
                await begun(path)
            async with running():
                reply = await reply_to(session_id, message_id)
                events = await events_of(session_id)
        assert reply.outcome == "failed"
        assert "send_text was started, and what came of it is not known" in reply.content
        assert effects(path) == ["hello"]
        assert sorted(each.outcome for each in of_type(events, ActSettled)) == ["failed", "unknown"]
