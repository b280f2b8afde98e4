"""The one way to a tool.

Check the arguments, let policy decide, run it within its limits, say what came of it.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import UUID

import orjson
from pydantic import BaseModel, ValidationError

from cartrita import telemetry
from cartrita.errors import BadInput, CartritaError
from cartrita.eventstore.types import Append, Context
from cartrita.tools.events import LargeResult, ToolDenied, ToolFailed, ToolReturned
from cartrita.tools.registry import Tool, ToolCall, tool
from governance.canonical import canonical
from governance.decide import Cost, DecisionRequest, RequestFacts, Verdict
from governance.detectors import kinds_within, redacted, redacted_within
from governance.doors import NotPermitted, Permit

LARGEST_INLINE_RESULT = 4096
GRACE_SECONDS = 1.0
_PREVIEW_CHARACTERS = 256
_MESSAGE_CHARACTERS = 2000
_PROBLEM_CHARACTERS = 300
_MOST_PROBLEMS = 20
# A larger result is checked in a thread, so that others do not wait for it.
_QUICK_RESULT = 256 * 1024

logger = logging.getLogger(__name__)


class InvalidParameters(BadInput):
    """The arguments do not fit the tool's schema; `details["parameters"]` names each, and why."""

    code: ClassVar[str] = "invalid_parameters"


class CallCancelled(asyncio.CancelledError):
    """The task was cancelled while the tool ran: record `failed`, then raise again."""

    def __init__(self, failed: ToolFailed) -> None:
        super().__init__(f"the call of {failed.tool} was cancelled")
        self.failed = failed


@dataclass(frozen=True, slots=True)
class PreparedTool:
    """A call that is ready but for the permit.

    `record` holds, after `perform`, the further appends that the tool wants recorded with its result.
    """

    tool: Tool
    arguments: BaseModel
    decision_request: DecisionRequest
    facts: RequestFacts
    idempotency_key: str
    record: list[Append] = field(default_factory=list)


async def prepare(name: str, arguments: Mapping[str, Any], *, facts: RequestFacts, key: str) -> PreparedTool:
    """Find the tool, check the arguments and state the request that policy has to decide on.

    `key` is the same whenever the same call is made again. Raises UnknownTool and InvalidParameters, and what
    the tool itself says of a call that cannot be; `refused` makes the event of each.
    """
    found = tool(name)
    checked = _checked(found, arguments)
    cost = Cost(tokens=found.cost_tokens)
    if found.expected_cost is not None:
        cost = await found.expected_cost(checked, facts.at)
    return PreparedTool(found, checked, _decision_request(found, checked, facts, cost), facts, key)


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Check arguments as `prepare` does. Raises UnknownTool and InvalidParameters."""
    _checked(tool(name), arguments)


async def perform(prepared: PreparedTool, permit: Permit, *, context: Context) -> ToolReturned | ToolFailed:
    """Run the tool and return the event that says what came of it; record it with `prepared.record`.

    `context` is that of the coming append; its `key_id` seals a large result's blob. A tool that hangs is
    cancelled at its timeout, and left behind when it does not end within a second of that. What the permit
    wants redacted is taken out of the arguments, or of the result or failure where the tool was decided as a
    retrieval; arguments that no longer fit the tool end in a ToolFailed. Raises NotPermitted when the permit
    is for another request or the tool was redefined since, CallCancelled when the task is cancelled.
    """
    permit.check(prepared.decision_request)
    # The decision was on the definition and the arguments; what runs must be those, whoever built `prepared`.
    decided = prepared.decision_request
    again = _decision_request(tool(prepared.tool.name), prepared.arguments, prepared.facts, decided.cost)
    if again != decided:
        raise NotPermitted(
            f"The call of {prepared.tool.name} is not the one that was decided; prepare it anew."
        )
    prepared.record.clear()
    call = ToolCall(
        facts=prepared.facts,
        context=context,
        decision_id=permit.decision_id,
        idempotency_key=prepared.idempotency_key,
        record=prepared.record,
        without_labels=permit.left_out,
        within_labels=permit.labels,
    )
    reads = decided.subject_kind == "retrieval"
    arguments, redact = prepared.arguments, permit.redact if reads else ()
    if permit.redact and not reads:
        told = redacted_within(decided.arguments, permit.redact)
        if told != decided.arguments:
            try:
                arguments = _checked(prepared.tool, told)
            except InvalidParameters as error:
                return refused(error, name=prepared.tool.name, key=prepared.idempotency_key)
    with telemetry.span(
        f"{telemetry.SPAN_TOOL} {prepared.tool.name}",
        {
            telemetry.GEN_AI_OPERATION_NAME: telemetry.SPAN_TOOL,
            telemetry.GEN_AI_TOOL_NAME: prepared.tool.name,
            telemetry.GEN_AI_TOOL_CALL_ID: prepared.idempotency_key,
            telemetry.GEN_AI_TOOL_TYPE: "function",
            telemetry.GEN_AI_CONVERSATION_ID: str(prepared.facts.session_id or ""),
            telemetry.OPENINFERENCE_SPAN_KIND: "TOOL",
            telemetry.TOOL_NAME: prepared.tool.name,
            telemetry.SESSION_ID: str(prepared.facts.session_id or ""),
            telemetry.DECISION_ID: str(permit.decision_id),
        },
    ) as span:
        if telemetry.traces_content():
            telemetry.tell_tool_call(span, arguments=arguments.model_dump_json())
        try:
            outcome = await _Run(prepared, arguments, call, redact, time.monotonic()).outcome()
        except CallCancelled as cancelled:
            telemetry.fail(span, cancelled.failed.code)
            raise
        if isinstance(outcome, ToolFailed):
            telemetry.fail(span, outcome.code)
        elif telemetry.traces_content():
            telemetry.tell_tool_call(span, result=orjson.dumps(outcome.result).decode())
        return outcome


def refused(error: CartritaError, *, name: str, key: str) -> ToolFailed:
    """Return the event of a call that `prepare` refused, as an answer to the agent that asked for it."""
    details = error.details.get("parameters", [])
    return ToolFailed(
        tool=name[:200], idempotency_key=key, code=error.code, message=error.message, details=details
    )


def denied(prepared: PreparedTool, verdict: Verdict, decision_id: UUID) -> ToolDenied:
    """Return the event of a call that policy did not let happen."""
    return ToolDenied(
        tool=prepared.tool.name,
        definition_hash=prepared.tool.definition_hash,
        idempotency_key=prepared.idempotency_key,
        decision_id=decision_id,
        outcome=verdict.outcome,
        rule=verdict.rule,
        message=verdict.message_for_agent or verdict.reason,
    )


@dataclass(slots=True)
class _Run:
    prepared: PreparedTool
    arguments: BaseModel
    call: ToolCall
    redact: tuple[str, ...]
    started: float

    async def outcome(self) -> ToolReturned | ToolFailed:
        definition = self.prepared.tool
        running = asyncio.ensure_future(definition.function(self.arguments, self.call))
        try:
            done, _ = await asyncio.wait({running}, timeout=definition.timeout_seconds)
        except asyncio.CancelledError:
            await _stop(running, definition.name)
            raise CallCancelled(self.failed("cancelled", "The call was cancelled.")) from None
        if not done:
            await _stop(running, definition.name)
            said = f"{definition.name} did not answer within {definition.timeout_seconds:g} seconds."
            return self.failed("timed_out", said, retryable=True)
        if running.cancelled():
            return self.failed("failed", f"{definition.name} cancelled itself.", retryable=True)
        error = running.exception()
        if error is None:
            try:
                return await self.returned(running.result())
            except asyncio.CancelledError:
                raise CallCancelled(self.failed("cancelled", "The call was cancelled.")) from None
        if isinstance(error, CartritaError):
            return self.failed(error.code, error.message, retryable=error.status == 503)
        if not isinstance(error, Exception):
            raise error
        logger.error("The tool %s failed.", definition.name, exc_info=error)
        return self.failed("failed", f"{definition.name} failed: {type(error).__name__}: {error}")

    async def returned(self, result: Any) -> ToolReturned | ToolFailed:
        definition = self.prepared.tool
        try:
            # A model that was built without validation, or changed since, must not pass as its type.
            result = definition.returns.model_validate(result, strict=True)
            content = result.model_dump_json(warnings="error").encode()
            if len(content) > definition.result_limit_bytes:
                return self.failed(
                    "result_too_large",
                    f"The result of {definition.name} has {len(content)} bytes; at most "
                    f"{definition.result_limit_bytes} are allowed. Ask for less.",
                )
            if len(content) <= _QUICK_RESULT:
                value, findings = self.looked_at(content)
            else:
                value, findings = await asyncio.to_thread(self.looked_at, content)
        except (BadInput, ValueError) as error:  # pydantic's errors are ValueErrors
            said = f"{definition.name} gave a result that does not fit its schema."
            logger.error(said, exc_info=error)
            return self.failed("invalid_result", said)
        paid = self.call.paid
        event = ToolReturned(
            tool=definition.name,
            definition_hash=definition.definition_hash,
            idempotency_key=self.call.idempotency_key,
            decision_id=self.call.decision_id,
            result=value,
            findings=tuple(sorted(findings)),
            cost_tokens=sum(each.cost.tokens for each in paid) if paid else definition.cost_tokens,
            cost_micros=sum(each.cost.micros for each in paid),
            currency=paid[0].cost.currency if paid else "USD",
            estimated=any(each.estimated for each in paid),
            latency_ms=self.milliseconds(),
        )
        if self.redact:
            content = orjson.dumps(value)
        return event if len(content) <= LARGEST_INLINE_RESULT else await self.with_blob(event)

    def looked_at(self, content: bytes) -> tuple[Any, frozenset[str]]:
        """Return a result as it is recorded, and the kinds of what is found in it."""
        value = _plain(self.prepared.tool, content)
        if self.redact:
            value = redacted_within(value, self.redact)
        return value, kinds_within(value)

    async def with_blob(self, event: ToolReturned) -> ToolReturned:
        from cartrita.eventstore import in_database_thread, put_blob

        content = orjson.dumps(event.result)
        sha256 = await in_database_thread(put_blob, content, key_id=self.call.key_id)
        return event.model_copy(
            update={
                "result": None,
                "large_result": LargeResult(sha256=sha256, bytes=len(content)),
                "preview": content.decode()[:_PREVIEW_CHARACTERS],
            }
        )

    def failed(self, code: str, message: str, *, retryable: bool = False) -> ToolFailed:
        definition = self.prepared.tool
        return ToolFailed(
            tool=definition.name,
            definition_hash=definition.definition_hash,
            idempotency_key=self.call.idempotency_key,
            decision_id=self.call.decision_id,
            code=code,
            # What a tool complains of may quote what it read.
            message=_readable(redacted(message[:_QUICK_RESULT], self.redact) if self.redact else message),
            retryable=retryable and definition.idempotent,
            may_have_acted=not definition.idempotent,
            latency_ms=self.milliseconds(),
        )

    def milliseconds(self) -> int:
        return round((time.monotonic() - self.started) * 1000)


def _checked(definition: Tool, arguments: Mapping[str, Any]) -> BaseModel:
    try:
        # Strict JSON mode takes what the JSON Schema takes: no "5" for 5, but text for dates and ids.
        content = orjson.dumps(canonical(dict(arguments), "arguments"))
        return definition.parameters.model_validate_json(content, strict=True)
    except ValidationError as error:
        wrong = [
            {
                "parameter": ".".join(map(str, found["loc"]))[:200] or "arguments",
                "problem": _problem(found, definition)[:_PROBLEM_CHARACTERS],
            }
            for found in error.errors(include_url=False, include_context=False, include_input=False)
        ][:_MOST_PROBLEMS]
        said = "; ".join(f"{one['parameter']}: {one['problem']}" for one in wrong)
        raise InvalidParameters(
            f"Invalid parameters for {definition.name}: {said}."[:_MESSAGE_CHARACTERS],
            field=wrong[0]["parameter"],
            parameters=wrong,
        ) from None
    except BadInput as error:
        raise InvalidParameters(
            f"Invalid parameters for {definition.name}: {error.message}",
            field=error.field,
            parameters=[{"parameter": error.field or "arguments", "problem": error.message}],
        ) from None


def _plain(definition: Tool, content: bytes) -> Any:
    """Return a result as the plain JSON that an event holds. Raises ValueError, BadInput."""
    checked = definition.returns.model_validate_json(content, strict=True).model_dump(mode="json")
    return canonical(checked, "result", most_values=len(content) + 1)


def _problem(found: Mapping[str, Any], definition: Tool) -> str:
    if found["type"] == "extra_forbidden" and len(found["loc"]) == 1:
        takes = ", ".join(definition.parameters.model_fields) or "none"
        return f"not a parameter of this tool, which takes {takes}"
    if found["type"] == "missing":
        return "missing"
    return str(found["msg"]).removeprefix("Value error, ")


def _decision_request(
    definition: Tool, arguments: BaseModel, facts: RequestFacts, cost: Cost
) -> DecisionRequest:
    told = arguments.model_dump(mode="json")
    return DecisionRequest.about(
        facts,
        definition.decided_as,
        tool=definition.name,
        arguments=told,
        definition_hash=definition.definition_hash,
        safety_level=definition.safety,
        cost=cost,
        findings=kinds_within(told),
    )


async def _stop(running: "asyncio.Future[Any]", name: str) -> None:
    """Cancel a tool; one that will not end is left to itself, and its late end is only logged."""
    running.cancel()
    try:
        await asyncio.wait({running}, timeout=GRACE_SECONDS)
    finally:
        if not running.done():
            logger.error("The tool %s ignores cancellation and was left behind.", name)
        running.add_done_callback(_forget)


def _forget(running: "asyncio.Future[Any]") -> None:
    if not running.cancelled() and (error := running.exception()) is not None:
        logger.warning("A tool that had been stopped ended with an error.", exc_info=error)


def _readable(message: str) -> str:
    """Cut a message and take out what an event cannot hold (NUL and halves of surrogate pairs)."""
    return message[:_MESSAGE_CHARACTERS].replace("\0", "�").encode(errors="replace").decode()
