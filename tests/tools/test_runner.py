import asyncio
from typing import Any
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from cartrita.errors import Unavailable
from cartrita.eventstore import (
    Append,
    Context,
    close_async,
    create_data_key,
    get_blob,
    in_database_thread,
    new_id,
)
from cartrita.tools import registry, runner
from cartrita.tools.events import ToolFailed, ToolReturned
from cartrita.tools.registry import Parameters, ToolCall, UnknownTool, all_tools, tool
from cartrita.tools.runner import CallCancelled, InvalidParameters, denied, perform, prepare, refused
from governance.decide import RequestFacts
from governance.doors import NotPermitted, Permit, make_decision
from tests.databases import Database
from tests.governance.policies import NOON, WORKSPACE, policy, rule

FACTS = RequestFacts(workspace_id=WORKSPACE, at=NOON, actor="user:1", roles=frozenset({"member"}))
HERE = Context(workspace_id=WORKSPACE)
ALLOWING = policy(rule("default", "allow", match={"kinds": ["tool_call", "retrieval"]}))


class Repeat(Parameters):
    text: str = Field(min_length=1, max_length=20)
    times: int = Field(default=1, ge=0)
    session: UUID | None = None


class Open(BaseModel):
    text: str = ""


class Repeated(Parameters):
    text: str
    score: float = 0.5


UNCHECKED: dict[str, Any] = {"text": 3}


@pytest.fixture(autouse=True)
def own_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools of a test are gone after it."""
    monkeypatch.setattr(registry, "_tools", dict(registry._tools))
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.05)


def repeat_tool(**more: Any) -> None:
    more = {"description": "Repeat a text.", "category": "test", **more}
    description, category = more.pop("description"), more.pop("category")

    @tool("repeat", description=description, category=category, **more)
    async def repeat(arguments: Repeat, call: ToolCall) -> Repeated:
        return Repeated(text=arguments.text * arguments.times)


async def outcome(
    name: str = "repeat", context: Context = HERE, **arguments: Any
) -> ToolReturned | ToolFailed:
    prepared = await prepare(name, arguments or {"text": "ab"}, facts=FACTS, key="k1")
    _, _, permit = make_decision(
        prepared.decision_request, decision_id=new_id(), context=context, policy=ALLOWING
    )
    assert permit is not None
    return await perform(prepared, permit, context=context)


class TestTool:
    def test_refuses_functions_of_another_shape(self) -> None:
        def plain(arguments: Repeat, call: ToolCall) -> Repeated:
            return Repeated(text="")

        async def open_result(arguments: Repeat, call: ToolCall) -> Open:
            return Open()

        async def untyped(arguments: dict[str, Any], call: ToolCall) -> Repeated:
            return Repeated(text="")

        async def fine(arguments: Repeat, call: ToolCall) -> Repeated:
            return Repeated(text="")

        with pytest.raises(TypeError, match="async def"):
            tool("plain", description="d", category="test")(plain)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"Open in the return value .* allows further members"):
            tool("open", description="d", category="test")(open_result)
        with pytest.raises(TypeError, match="annotate arguments with a pydantic model"):
            tool("untyped", description="d", category="test")(untyped)  # type: ignore[type-var]
        with pytest.raises(TypeError, match="tool name 'Bad Name'"):
            tool("Bad Name", description="d", category="test")(fine)
        repeat_tool()
        with pytest.raises(TypeError, match="Two tools are called repeat"):
            tool("repeat", description="d", category="test")(fine)

    def test_changes_its_hash_with_its_definition(self) -> None:
        hashes = set()
        for definition in ({}, {"description": "Other."}, {"safety": "caution"}, {"timeout_seconds": 1.0}):
            repeat_tool(**definition)
            hashes.add(tool("repeat").definition_hash)
            registry._tools.pop("repeat")
        assert len(hashes) == 4

    def test_has_closed_schemas_of_2020_12(self) -> None:
        repeat_tool()
        assert {"calculate", "current_time", "repeat"} <= {one.name for one in all_tools()}
        for one in all_tools():
            for schema in (one.parameters_schema, one.returns_schema):
                assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
                Draft202012Validator.check_schema(schema)
                assert schema["additionalProperties"] is False

    def test_names_similar_ones(self) -> None:
        with pytest.raises(UnknownTool, match="did you mean calculate"):
            tool("calculat")


class TestPrepare:
    async def test_states_the_request(self) -> None:
        repeat_tool(safety="caution", cost_tokens=7, decided_as="retrieval")
        asked = (await prepare("repeat", {"text": "a"}, facts=FACTS, key="k")).decision_request
        assert (asked.subject_kind, asked.tool, asked.safety_level) == ("retrieval", "repeat", "caution")
        assert asked.arguments == {"text": "a", "times": 1, "session": None}
        assert (asked.definition_hash, asked.cost.tokens) == (tool("repeat").definition_hash, 7)

    @pytest.mark.parametrize(
        ("arguments", "parameter", "problem"),
        [
            ({}, "text", "missing"),
            ({"text": "a", "times": "5"}, "times", "valid integer"),
            ({"text": "a", "times": -1}, "times", "greater than or equal to 0"),
            ({"text": "a", "other": 1}, "other", "takes text, times, session"),
            ({"text": "x" * 21}, "text", "at most 20 characters"),
            ({"text": "a", "session": "no"}, "session", "UUID"),
            ({"text": "a\0"}, "arguments.text", "NUL"),
            ({"text": "\ud800"}, "arguments.text", "surrogate"),
        ],
    )
    async def test_says_which_parameter_is_invalid_and_why(
        self, arguments: dict[str, Any], parameter: str, problem: str
    ) -> None:
        repeat_tool()
        with pytest.raises(InvalidParameters) as raised:
            await prepare("repeat", arguments, facts=FACTS, key="k")
        (wrong,) = raised.value.details["parameters"]
        assert wrong["parameter"] == parameter
        assert problem in wrong["problem"]
        event = refused(raised.value, name="repeat", key="k")
        assert (event.code, event.details) == ("invalid_parameters", [wrong])

    async def test_takes_what_the_schema_takes(self) -> None:
        repeat_tool()
        validator = Draft202012Validator(tool("repeat").parameters_schema)
        for arguments in (
            {"text": "a"},
            {"text": "a", "times": 3, "session": str(WORKSPACE)},
            {"text": 3},
            {"text": "a", "times": True},
            {"text": "a", "times": 1.5},
            {"text": "a", "session": None},
            {"text": "a", "x": None},
        ):
            try:
                await prepare("repeat", arguments, facts=FACTS, key="k")
                taken = True
            except InvalidParameters:
                taken = False
            assert taken is validator.is_valid(arguments), arguments

    async def test_answers_an_unknown_tool(self) -> None:
        with pytest.raises(UnknownTool) as raised:
            await prepare("nothing_like_it", {}, facts=FACTS, key="k")
        event = refused(raised.value, name="nothing_like_it", key="k")
        assert (event.code, event.tool) == ("unknown_tool", "nothing_like_it")
        assert "known tools: calculate" in event.message


class TestPerform:
    async def test_returns_the_result(self) -> None:
        repeat_tool(cost_tokens=3)
        event = await outcome(text="ab", times=2)
        assert isinstance(event, ToolReturned)
        assert event.result == {"text": "abab", "score": 0.5}
        assert (event.tool, event.idempotency_key, event.cost_tokens) == ("repeat", "k1", 3)

    async def test_hands_the_tool_its_call_and_keeps_what_it_records(self) -> None:
        seen: list[ToolCall] = []

        @tool("note", description="d", category="test")
        async def note(arguments: Repeat, call: ToolCall) -> Repeated:
            seen.append(call)
            call.record.append(Append(new_id(), 0, [], call.context))
            return Repeated(text="")

        prepared = await prepare("note", {"text": "a"}, facts=FACTS, key="k1")
        _, _, permit = make_decision(
            prepared.decision_request, decision_id=new_id(), context=HERE, policy=ALLOWING
        )
        assert permit is not None
        await perform(prepared, permit, context=HERE)
        await perform(prepared, permit, context=HERE)
        assert len(prepared.record) == 1
        assert (seen[0].workspace_id, seen[0].actor, seen[0].idempotency_key) == (WORKSPACE, "user:1", "k1")
        assert seen[0].decision_id == permit.decision_id

    async def test_does_nothing_without_a_permit_for_exactly_this(self) -> None:
        ran: list[str] = []

        @tool("act", description="d", category="test")
        async def act(arguments: Repeat, call: ToolCall) -> Repeated:
            ran.append(arguments.text)
            return Repeated(text="")

        prepared = await prepare("act", {"text": "a"}, facts=FACTS, key="k")
        other = await prepare("act", {"text": "b"}, facts=FACTS, key="k")
        permit = permit_for(prepared)
        with pytest.raises(NotPermitted):
            await perform(other, permit, context=HERE)
        forged = runner.PreparedTool(
            other.tool, other.arguments, prepared.decision_request, prepared.facts, prepared.idempotency_key
        )
        with pytest.raises(NotPermitted, match="not the one that was decided"):
            await perform(forged, permit, context=HERE)
        registry._tools.pop("act")
        tool("act", description="Redefined.", category="test")(act)
        with pytest.raises(NotPermitted, match="not the one that was decided"):
            await perform(prepared, permit, context=HERE)
        assert ran == []

    async def test_stops_one_that_hangs(self) -> None:
        stopped = asyncio.Event()

        @tool("hang", description="d", category="test", timeout_seconds=0.05)
        async def hang(arguments: Repeat, call: ToolCall) -> Repeated:
            try:
                await asyncio.sleep(60)
            finally:
                stopped.set()
            return Repeated(text="")

        event = await outcome("hang", text="a")
        assert isinstance(event, ToolFailed)
        assert (event.code, event.retryable, event.may_have_acted) == ("timed_out", True, False)
        assert stopped.is_set()

    async def test_leaves_one_behind_that_ignores_cancellation(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        release = asyncio.Event()

        @tool("stubborn", description="d", category="test", timeout_seconds=0.05, idempotent=False)
        async def stubborn(arguments: Repeat, call: ToolCall) -> Repeated:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return Repeated(text="")

        event = await outcome("stubborn", text="a")
        assert isinstance(event, ToolFailed)
        assert (event.code, event.retryable, event.may_have_acted) == ("timed_out", False, True)
        assert "ignores cancellation" in caplog.text
        release.set()
        await asyncio.sleep(0)

    async def test_passes_cancellation_on_with_the_event(self) -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        @tool("wait", description="d", category="test")
        async def wait(arguments: Repeat, call: ToolCall) -> Repeated:
            started.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()
            return Repeated(text="")

        task = asyncio.create_task(outcome("wait", text="a"))
        await started.wait()
        task.cancel()
        with pytest.raises(CallCancelled) as cancelled:
            await task
        assert ended.is_set()
        assert cancelled.value.failed.code == "cancelled"

    @pytest.mark.parametrize(
        ("error", "code", "retryable", "said"),
        [
            (ValueError("odd \0 text"), "failed", False, "ValueError: odd � text"),
            (TimeoutError("inner"), "failed", False, "TimeoutError: inner"),
            (Unavailable("The index is being built."), "unavailable", True, "The index is being built."),
        ],
    )
    async def test_reports_one_that_raises(
        self, error: Exception, code: str, retryable: bool, said: str
    ) -> None:
        @tool("fail", description="d", category="test")
        async def fail(arguments: Repeat, call: ToolCall) -> Repeated:
            raise error

        event = await outcome("fail", text="a")
        assert isinstance(event, ToolFailed)
        assert (event.code, event.retryable) == (code, retryable)
        assert said in event.message

    async def test_refuses_a_result_above_its_limit(self) -> None:
        repeat_tool(result_limit_bytes=100)
        event = await outcome(text="x" * 20, times=20)
        assert isinstance(event, ToolFailed)
        assert event.code == "result_too_large"
        assert "at most 100 are allowed" in event.message

    @pytest.mark.parametrize(
        "result",
        [
            Repeated.model_construct(**UNCHECKED),
            Repeated(text="x", score=float("nan")),
            Repeated(text="\0"),
            Repeat(text="x"),
            None,
            {"text": "x", "more": 1},
        ],
    )
    async def test_refuses_a_result_of_another_shape(self, result: Any) -> None:
        @tool("odd", description="d", category="test")
        async def odd(arguments: Repeat, call: ToolCall) -> Repeated:
            return result  # type: ignore[no-any-return]

        event = await outcome("odd", text="a")
        assert isinstance(event, ToolFailed)
        assert event.code == "invalid_result"

    @pytest.mark.flow
    async def test_keeps_a_large_result_as_a_sealed_blob(self, database: Database) -> None:
        repeat_tool()
        key_id = await in_database_thread(create_data_key, subject_id=new_id(), scope="session")
        event = await outcome(
            context=Context(workspace_id=WORKSPACE, key_id=key_id), text="x" * 20, times=300
        )
        assert isinstance(event, ToolReturned)
        assert event.result is None
        assert event.large_result is not None
        content = await in_database_thread(get_blob, event.large_result.sha256, key_id=key_id)
        assert content == b'{"text":"' + b"x" * 6000 + b'","score":0.5}'
        assert event.large_result.bytes == len(content)
        assert event.preview == content.decode()[:256]
        await close_async()


class TestRedaction:
    async def test_takes_what_was_read_out_of_a_failure_too(self, database: Database) -> None:
        @tool("look_up", description="Look it up.", category="test", decided_as="retrieval")
        async def look_up(arguments: Repeat, call: ToolCall) -> Repeated:
            raise Unavailable(f"No number: {'.' * 20} {arguments.text} cannot be cast.")

        redacting = policy(
            rule("r", "allow", match={"kinds": ["retrieval"]}, parameters={"redact": ["email"]}),
        )
        prepared = await prepare("look_up", {"text": "ann@example.org"}, facts=FACTS, key="k1")
        _, _, permit = make_decision(
            prepared.decision_request, decision_id=new_id(), context=HERE, policy=redacting
        )
        assert permit is not None
        failed = await perform(prepared, permit, context=HERE)
        assert isinstance(failed, ToolFailed)
        assert "⟦email⟧ cannot be cast" in failed.message
        assert "ann@" not in failed.message


class TestDenied:
    async def test_tells_the_agent(self) -> None:
        repeat_tool()
        prepared = await prepare("repeat", {"text": "a"}, facts=FACTS, key="k")
        denying = policy(rule("no", "deny", message_for_agent="Use another."))
        verdict, decision, _ = make_decision(
            prepared.decision_request, decision_id=new_id(), context=HERE, policy=denying
        )
        event = denied(prepared, verdict, decision.stream_id)
        assert (event.tool, event.rule, event.message) == ("repeat", "no", "Use another.")


def permit_for(prepared: runner.PreparedTool) -> Permit:
    _, _, permit = make_decision(
        prepared.decision_request, decision_id=new_id(), context=HERE, policy=ALLOWING
    )
    assert permit is not None
    return permit
