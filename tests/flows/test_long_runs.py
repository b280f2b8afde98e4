"""Runs of many steps: what a step costs does not grow with the steps before it."""

import json
from typing import Any

import pytest

from cartrita.eventstore import in_database_thread
from cartrita.eventstore.store import execute
from cartrita.llm.events import ModelAnswered
from cartrita.orchestrator import agents, context, planning
from cartrita.orchestrator.agents import Agent
from cartrita.tools.registry import Parameters, ToolCall
from governance.decision import DecisionMade
from tests.flows.conftest import Person, ScriptedModel, running
from tests.flows.governed import events_of, of_type
from tests.flows.test_plans import a_tool

pytestmark = pytest.mark.usefixtures("consistent")

STEPS = 60
READER = Agent(
    name="letter_reader",
    version=1,
    purpose="Reads letters.",
    instructions="Read letter after letter.",
    examples=("Read the letters.",),
    tools=("read_letter",),
)
STORED = """
    select (select sum(octet_length(data)) from event)::int8,
           (select coalesce(sum(octet_length(content)), 0) from blob)::int8
"""


class Letter(Parameters):
    number: int


class Text(Parameters):
    text: str


def stored() -> int:
    (row,) = execute(STORED).fetchall()
    return int(row[0]) + int(row[1])


class TestRunOfManySteps:
    @pytest.mark.parametrize("room", [context.CONVERSATION_TOKENS, 1000])
    async def test_stores_no_more_for_its_last_steps_than_for_its_first(
        self,
        person: Person,
        model: ScriptedModel,
        settings: Any,
        monkeypatch: pytest.MonkeyPatch,
        room: int,
    ) -> None:
        monkeypatch.setattr(context, "CONVERSATION_TOKENS", room)
        settings.MAX_MODEL_CALLS = settings.MAX_TOOL_CALLS = 2 * STEPS
        monkeypatch.setattr(planning, "BUDGET_TIMES", 10**6)
        monkeypatch.setitem(agents._agents, READER.name, READER)
        sizes: list[int] = []

        async def read_letter(arguments: Letter, call: ToolCall) -> Text:
            sizes.append(await in_database_thread(stored))
            return Text(text=f"Letter {arguments.number}: {'all is well, ' * 20}")

        asked = [{"tool": "read_letter", "arguments": json.dumps({"number": n})} for n in range(STEPS)]
        model.answers(
            *({"text": json.dumps(one | {"answer": ""}), "times": 1} for one in asked),
            {"text": json.dumps({"tool": "", "arguments": "", "answer": "All is well."})},
        )
        with a_tool("read_letter", read_letter):
            async with running():
                session_id = await person.opens_session()
                reply = await person.asks(session_id, "Read the letters.", agent=READER.name)
                events = await events_of(session_id)
        assert (reply.outcome, reply.content) == ("answered", "All is well.")
        answers = of_type(events, ModelAnswered)
        assert len(answers) == STEPS + 1
        assert max(one.prompt_tokens for one in answers) <= room
        quarter = STEPS // 4
        first, last = sizes[quarter] - sizes[0], sizes[-1] - sizes[-1 - quarter]
        assert last < 1.1 * first
        decided = [one for one in of_type(events, DecisionMade) if one.subject_kind == "model_call"]
        assert decided[-1].arguments_in_parts == ("messages",)
