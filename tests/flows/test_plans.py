"""Messages that take several tasks: their plan, its limits, and what becomes of it when parts of it fail."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cartrita.errors import Unavailable
from cartrita.eventstore import Event, RecordedEvent, in_database_thread
from cartrita.llm.events import ModelAnswered
from cartrita.orchestrator.critic import CRITERIA
from cartrita.orchestrator.judging import Judging
from cartrita.orchestrator.planning import RUBRIC_TOKENS
from cartrita.tools import registry
from cartrita.tools.registry import ToolCall, tool
from governance.decision import ActSettled
from sessions_app import commands as sessions
from sessions_app.session import ReplyPosted
from tasks_app.plan import (
    EdgeAdded,
    PlanBilled,
    PlanCompleted,
    PlanCriticised,
    PlanProposed,
    PlanRevised,
    TaskAborted,
    TaskAdded,
    TaskCompleted,
    TaskFailed,
    TaskPruned,
    TaskRetried,
    TaskStarted,
)
from tasks_app.run import ActDecided, RunFinished, RunStarted
from tests.flows.conftest import Person, ScriptedModel, reply_to, running, until
from tests.flows.governed import (
    Reviewer,
    Sends,
    Sent,
    a_reviewer,
    effects,
    escalating,
    events_of,
    of_type,
    registered,
    requested,
    rules,
)

pytestmark = pytest.mark.usefixtures("consistent")

# A message that a model plans: two requests, for whoever the model says.
ASKED = "Send the first letter. Then send the second letter?"
PLANNING = "Plan this request"
SUM = json.dumps({"expression": "6 * 7"})


def call(key: str, text: str, *after: str, **more: Any) -> dict[str, Any]:
    """Return a task of a model's plan that is one call of the tool of these flows."""
    arguments = json.dumps({"text": text})
    return task(key, f"Send {text}.", *after, **({"tool": "send_text", "arguments": arguments} | more))


def task(key: str, intent: str, *after: str, **more: Any) -> dict[str, Any]:
    return {
        "key": key,
        "intent": intent,
        "agent": "assistant",
        "tool": "",
        "arguments": "",
        "depends_on": list(after),
        "refines": [],
        "enables": [],
        "blocks": [],
        "priority": 5,
    } | more


def plans(model: ScriptedModel, *tasks: dict[str, Any], then: Sequence[dict[str, Any]] = ()) -> None:
    """Let the model plan these tasks, and answer everything else with one sentence."""
    planned = {"when": PLANNING, "text": json.dumps({"tasks": list(tasks)})}
    model.answers(planned, *then, {"text": "All of it is done."})


@contextmanager
def a_tool(name: str, function: Any, **definition: Any) -> Iterator[None]:
    """Register a tool of a test's own."""
    before = dict(registry._tools)
    tool(name, description="Send a text.", category="network", **definition)(function)
    try:
        yield
    finally:
        registry._tools.clear()
        registry._tools.update(before)


async def asks(person: Person, text: str = ASKED) -> tuple[ReplyPosted, list[RecordedEvent]]:
    session_id = await person.opens_session()
    reply = await person.asks(session_id, text, agent=None)
    return reply, await events_of(session_id)


def order_of(events: Sequence[RecordedEvent], *kinds: type[Event]) -> list[tuple[str, str]]:
    """Return what became of each task, in the order of the log, by the task's key."""
    keys = {
        each.event.task_id: str(each.event.spec.get("key", "root"))
        for each in events
        if isinstance(each.event, TaskAdded)
    }
    return [
        (type(each.event).__name__, keys[each.event.task_id])  # type: ignore[attr-defined]
        for each in events
        if isinstance(each.event, kinds)
    ]


class TestPlanOfSeveralTasks:
    async def test_runs_each_after_what_it_needs(
        self, person: Person, model: ScriptedModel, tmp_path: Path
    ) -> None:
        plans(model, call("a", "one"), call("b", "two", "a"), call("c", "three", "b"))
        with registered("send_text", tmp_path / "sent"):
            async with running():
                reply, events = await asks(person)
        assert effects(tmp_path / "sent") == ["one", "two", "three"]
        assert (reply.outcome, reply.content) == ("answered", "All of it is done.")
        (proposed,) = of_type(events, PlanProposed)
        assert proposed.planner == "model-1"
        root, *parts = of_type(events, TaskAdded)
        assert (root.kind, [part.parent_id for part in parts]) == ("synthesis", [root.task_id] * 3)
        assert len(of_type(events, EdgeAdded)) == 2
        assert order_of(events, TaskStarted, TaskCompleted) == [
            (step, key) for key in ("a", "b", "c", "root") for step in ("TaskStarted", "TaskCompleted")
        ]
        (completed,) = of_type(events, PlanCompleted)
        assert completed.status == "complete"

    async def test_runs_side_by_side_what_needs_nothing(self, person: Person, model: ScriptedModel) -> None:
        at_work: list[str] = []
        together = asyncio.Event()

        async def meet(arguments: Sends, call: ToolCall) -> Sent:
            at_work.append(arguments.text)
            if len(at_work) == 2:
                together.set()
            await together.wait()
            return Sent(text="met")

        plans(model, call("a", "one"), call("b", "two"))
        with a_tool("send_text", meet):
            async with running():
                reply, _ = await asks(person)
        assert (sorted(at_work), reply.outcome) == (["one", "two"], "answered")

    async def test_goes_on_where_it_can_when_a_part_fails(
        self, person: Person, model: ScriptedModel, tmp_path: Path
    ) -> None:
        async def refuse(arguments: Sends, call: ToolCall) -> Sent:
            raise RuntimeError("the letter box is full")

        plans(model, call("a", "one", tool="drop_text"), call("b", "two", "a"), call("c", "three"))
        with registered("send_text", tmp_path / "sent"), a_tool("drop_text", refuse):
            async with running():
                reply, events = await asks(person)
        assert effects(tmp_path / "sent") == ["three"]
        assert order_of(events, TaskFailed, TaskPruned) == [("TaskFailed", "a"), ("TaskPruned", "b")]
        assert reply.outcome == "answered"

    async def test_says_why_when_no_part_came_to_a_result(self, person: Person, model: ScriptedModel) -> None:
        async def refuse(arguments: Sends, call: ToolCall) -> Sent:
            raise RuntimeError("the letter box is full")

        plans(model, call("a", "one"), call("b", "two"))
        with a_tool("send_text", refuse):
            async with running():
                reply, events = await asks(person)
        assert reply.outcome == "failed"
        assert reply.content.count("the letter box is full") == 2
        assert of_type(events, PlanCompleted)[0].status == "failed"

    async def test_tries_again_what_may_pass(self, person: Person, model: ScriptedModel) -> None:
        tries: list[str] = []
        keys: list[str] = []

        async def hesitate(arguments: Sends, call: ToolCall) -> Sent:
            tries.append(arguments.text)
            keys.append(call.idempotency_key)
            # Only once: a tool that fails again is slowed down by the policy.
            if len(tries) == 1:
                raise Unavailable("The post office is closed for a moment.")
            return Sent(text="sent")

        plans(model, call("a", "one"), call("b", "two", "a"))
        with a_tool("send_text", hesitate):
            async with running():
                reply, events = await asks(person)
        assert (tries, reply.outcome) == (["one", "one", "two"], "answered")
        assert [one.attempt for one in of_type(events, TaskRetried)] == [1]
        assert keys[0] == keys[1] != keys[2]

    async def test_does_not_try_again_what_may_have_happened(
        self, person: Person, model: ScriptedModel
    ) -> None:
        tries: list[str] = []

        async def hang(arguments: Sends, call: ToolCall) -> Sent:
            tries.append(arguments.text)
            await asyncio.sleep(60)
            raise AssertionError("it was too late")

        plans(model, call("a", "one"), call("b", "two", "a"))
        with a_tool("send_text", hang, idempotent=False, timeout_seconds=0.2):
            async with running():
                _, events = await asks(person)
        assert tries == ["one"]
        assert of_type(events, TaskRetried) == []
        assert order_of(events, TaskFailed) == [("TaskFailed", "a")]


class TestBill:
    async def test_foresees_the_synthesis_and_the_judging_of_what_a_model_writes(
        self, person: Person, model: ScriptedModel, tmp_path: Path
    ) -> None:
        written = task("poem", "Write a poem.", agent="writer")
        passed = {name: {"passed": True, "reason": "See."} for name in CRITERIA}
        accepted = json.dumps(passed | {"verdict": "accept", "improve": ""})
        plans(model, call("one", "a"), written, then=[{"when": "You judge", "text": accepted}])
        with registered("send_text", tmp_path / "sent"):
            async with running():
                _, events = await asks(person)
        (bill,) = of_type(events, PlanBilled)
        keys = {each.task_id: str(each.spec.get("key", "root")) for each in of_type(events, TaskAdded)}
        lines = {keys[line.task_id]: line for line in bill.lines}
        used = {keys.get(each.task_id, "plan") for each in of_type(events, RunStarted)}
        assert used == {"root", "one", "poem", "plan"}
        assert (lines["one"].model, lines["root"].model, lines["poem"].model) == ("", "scripted", "scripted")
        assert lines["root"].prompt_tokens > 0
        assert lines["root"].output_tokens > 0
        assert lines["poem"].prompt_tokens > RUBRIC_TOKENS
        assert lines["poem"].output_tokens > Judging.most_tokens
        (proposed,) = of_type(events, PlanProposed)
        (root,) = [each for each in of_type(events, TaskAdded) if each.kind == "synthesis"]
        assert root.estimated_tokens == lines["root"].prompt_tokens + lines["root"].output_tokens
        assert proposed.estimated_tokens > root.estimated_tokens


class TestPlanThatIsStopped:
    async def test_ends_its_tools_within_a_second(self, person: Person, model: ScriptedModel) -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def hang(arguments: Sends, call: ToolCall) -> Sent:
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()
            raise AssertionError("it was stopped")

        plans(model, call("a", "one"), call("b", "two", "a"))
        with a_tool("send_text", hang):
            async with running():
                session_id = await person.opens_session()
                message_id = await person.says(session_id, ASKED, agent=None)
                await begun.wait()
                await in_database_thread(
                    sessions.cancel_turn, session_id=session_id, message_id=message_id, actor=person.actor
                )
                await asyncio.wait_for(ended.wait(), 60)
                reply = await reply_to(session_id, message_id)
                events = await events_of(session_id)
        assert reply.outcome == "stopped"
        assert order_of(events, TaskAborted) == [
            ("TaskAborted", "root"), ("TaskAborted", "b"), ("TaskAborted", "a")
        ]  # fmt: skip
        assert of_type(events, PlanCompleted)[0].status == "stopped"

    async def test_ends_while_it_is_planned(self, person: Person, model: ScriptedModel) -> None:
        model.answers({"when": PLANNING, "text": "word " * 500, "seconds_per_token": 0.05})
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, ASKED, agent=None)
            await until(session_id, lambda each: isinstance(each.event, ActDecided))
            await in_database_thread(
                sessions.cancel_turn, session_id=session_id, message_id=message_id, actor=person.actor
            )
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert reply.outcome == "stopped"
        assert [one.status for one in of_type(events, RunFinished)] == ["stopped"]
        assert [one.outcome for one in of_type(events, ActSettled)] == ["cancelled"]


@pytest.fixture
def reviewer(person: Person) -> Reviewer:
    return a_reviewer(person)


class TestPlanWithAnApproval:
    async def test_goes_on_beside_what_waits(
        self, person: Person, reviewer: Reviewer, model: ScriptedModel, tmp_path: Path
    ) -> None:
        await reviewer.changes_rules(person, rules(escalating("ask", "tool_call", tools=["ask_first"])))
        plans(model, call("a", "one", tool="ask_first"), call("b", "two"), call("c", "three", "a", "b"))
        with registered("send_text", tmp_path / "sent"), registered("ask_first", tmp_path / "sent"):
            async with running():
                session_id = await person.opens_session()
                message_id = await person.says(session_id, ASKED, agent=None)
                approval_id = await requested(session_id)
                await until(
                    session_id,
                    lambda each: (
                        isinstance(each.event, TaskCompleted) and effects(tmp_path / "sent") == ["two"]
                    ),
                )
                await reviewer.approves(approval_id)
                reply = await reply_to(session_id, message_id)
        assert effects(tmp_path / "sent") == ["two", "one", "three"]
        assert reply.outcome == "answered"

    async def test_is_gone_on_with_by_another_process(
        self, person: Person, reviewer: Reviewer, model: ScriptedModel, tmp_path: Path
    ) -> None:
        await reviewer.changes_rules(person, rules(escalating("ask", "tool_call", tools=["ask_first"])))
        plans(model, call("a", "one", tool="ask_first"), call("b", "two", "a"))
        with registered("send_text", tmp_path / "sent"), registered("ask_first", tmp_path / "sent"):
            async with running():
                session_id = await person.opens_session()
                message_id = await person.says(session_id, ASKED, agent=None)
                approval_id = await requested(session_id)
            await reviewer.approves(approval_id)
            async with running():
                reply = await reply_to(session_id, message_id)
        assert (effects(tmp_path / "sent"), reply.outcome) == (["one", "two"], "answered")


class TestModelThatPlans:
    @pytest.mark.parametrize(
        "nonsense",
        [
            "I would rather not.",
            json.dumps({"tasks": [call("a", "one", "b"), call("b", "two", "a")]}),
            json.dumps({"tasks": [call("a", "one", "nowhere")]}),
            json.dumps({"tasks": [task("a", "Send one.", agent="postman")]}),
            json.dumps({"tasks": []}),
        ],
        ids=["no plan", "circle", "dangling edge", "unknown agent", "no task"],
    )
    async def test_is_asked_again_for_what_is_no_plan(
        self, nonsense: str, person: Person, model: ScriptedModel, tmp_path: Path
    ) -> None:
        good = json.dumps({"tasks": [call("a", "one"), call("b", "two", "a")]})
        model.answers(
            {"when": PLANNING, "text": nonsense, "times": 1},
            {"when": PLANNING, "text": good},
            {"text": "Done."},
        )
        with registered("send_text", tmp_path / "sent"):
            async with running():
                reply, _ = await asks(person)
        assert (effects(tmp_path / "sent"), reply.outcome) == (["one", "two"], "answered")

    async def test_leaves_it_to_rules_where_it_never_plans(
        self, person: Person, model: ScriptedModel
    ) -> None:
        cyclic = json.dumps({"tasks": [call("a", "one", "b"), call("b", "two", "a")]})
        model.answers({"when": PLANNING, "text": cyclic}, {"text": "Done."})
        async with running():
            reply, events = await asks(person, "@assistant say hello; then greet @writer and write a poem")
        assert reply.outcome in {"answered", "failed"}
        assert of_type(events, PlanProposed)[0].planner == "rules-1"


class TestCritic:
    async def test_has_a_result_improved_once(self, person: Person, model: ScriptedModel) -> None:
        tasks = [task("a", "Write one line on ropes.", agent="writer"), task("b", "Write on anchors.")]
        better = {name: {"passed": name != "whole", "reason": "See."} for name in CRITERIA}
        model.answers(
            {"when": PLANNING, "text": json.dumps({"tasks": tasks})},
            {
                "when": "<result>\nRopes are long.",
                "text": json.dumps(better | {"verdict": "revise", "improve": "Say what they are made of."}),
            },
            {"when": "You judge", "text": json.dumps(better | {"verdict": "accept", "improve": ""})},
            {"when": "Say what they are made of.", "text": "Ropes are made of hemp."},
            {"when": "Write one line on ropes.", "text": "Ropes are long.", "times": 1},
            {"when": "Ropes are made of hemp.", "text": "Ropes are made of hemp; anchors hold."},
            {"text": "Anchors hold."},
        )
        async with running():
            reply, events = await asks(person)
        assert (reply.outcome, reply.content) == ("answered", "Ropes are made of hemp; anchors hold.")
        verdicts = [one.verdict for one in of_type(events, PlanCriticised)]
        assert sorted(verdicts) == ["accept", "accept", "revise"]
        (revised,) = of_type(events, PlanRevised)
        assert len(revised.added) == 1
        refining = [edge for edge in of_type(events, EdgeAdded) if edge.relation == "refines"]
        assert [edge.to_task for edge in refining] == list(revised.added)


class TestAgentWithTools:
    async def test_is_stopped_where_it_runs_in_circles(self, person: Person, model: ScriptedModel) -> None:
        again = json.dumps({"tool": "calculate", "arguments": SUM, "answer": ""})
        model.answers({"text": again})
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, "Work out what I mean.", agent="calculator")
            events = await events_of(session_id)
        assert reply.outcome == "failed"
        assert "wanted 4 times" in reply.content
        (finished,) = of_type(events, RunFinished)
        assert finished.code == "identical_calls"

    async def test_is_told_what_its_tools_gave(self, person: Person, model: ScriptedModel) -> None:
        model.answers(
            {"text": json.dumps({"tool": "calculate", "arguments": SUM, "answer": ""}), "times": 1},
            {"when": "42", "text": json.dumps({"tool": "", "arguments": "", "answer": "It is 42."})},
        )
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, "Work out what I mean.", agent="calculator")
            events = await events_of(session_id)
        assert (reply.outcome, reply.content, reply.model) == ("answered", "It is 42.", "scripted")
        assert len(of_type(events, ModelAnswered)) == 2
