"""From the end of a turn to what OpenAI's API says of it: an answer, or a failure."""

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from cartrita.interop.openai_api.errors import Failure
from cartrita.interop.openai_api.turns import Asked, Progress
from cartrita.orchestrator.relay import RelayAnswer, ToolCall

# What a run's code means to a program: the status, and whether asking again may help.
_FAILURES: Mapping[str, tuple[int, str, bool]] = {
    "context_too_long": (400, "context_length_exceeded", False),
    "tools_not_supported": (400, "tools_not_supported", False),
    "filtered": (400, "content_filter", False),
    "not_redactable": (400, "content_filter", False),
    "unknown_model": (404, "model_not_found", False),
    "rate_limited": (503, "model_rate_limited", True),
    "circuit_open": (503, "model_unavailable", True),
    "model_busy": (503, "model_busy", True),
    "timed_out": (503, "model_timed_out", True),
    "deadline_passed": (503, "model_timed_out", True),
    "model_not_configured": (503, "model_not_configured", False),
    "unreachable": (502, "model_unreachable", True),
    "server_error": (502, "model_failed", True),
    "cut_stream": (502, "model_failed", True),
    "no_answer": (502, "model_failed", True),
    "invalid_output": (502, "model_invalid_output", False),
    "rejected": (502, "model_rejected", False),
    "not_signed_in": (502, "model_not_signed_in", False),
    "out_of_quota": (502, "model_out_of_quota", False),
    "failed_inside": (500, "failed_inside", False),
    "": (500, "failed_inside", False),
}
_PARAMS = {"context_length_exceeded": "messages", "tools_not_supported": "tools", "model_not_found": "model"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole answer as a program is told it. Tokens are those of all models that the turn asked."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    model: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    estimated: bool = False

    def usage(self) -> dict[str, Any]:
        """Return the usage object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def message(self) -> dict[str, Any]:
        """Return the message object."""
        said: dict[str, Any] = {"role": "assistant", "content": self.text or None, "refusal": None}
        if self.tool_calls:
            return {**said, "tool_calls": [call_as_json(call) for call in self.tool_calls]}
        return {**said, "content": self.text}


def completion_of_run(progress: Progress, *, model: str) -> Completion:
    """Return what an agent answered."""
    if progress.reply is None:
        raise AssertionError("only an answered turn has an answer")
    runs = progress.finished.values()
    return Completion(
        text=progress.reply.content,
        model=model,
        prompt_tokens=sum(run.prompt_tokens for run in runs),
        completion_tokens=sum(run.completion_tokens for run in runs),
    )


def completion_of_relay(answer: RelayAnswer, *, one_call: bool) -> Completion:
    """Return what a model answered; with `one_call` the first call of a function alone."""
    return Completion(
        text=answer.text,
        tool_calls=answer.tool_calls[:1] if one_call else answer.tool_calls,
        finish_reason=answer.finish_reason,
        model=answer.model,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        cached_tokens=answer.cached_tokens,
        estimated=answer.estimated,
    )


def call_as_json(call: ToolCall) -> dict[str, Any]:
    """Return a call of one of the caller's functions."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def failure_of_turn(progress: Progress, asked: Asked) -> Failure | None:
    """Return why a turn that is over gave no answer, None where it gave one."""
    facts: dict[str, Any] = {"session_id": str(asked.session_id)}
    if progress.decision_id is not None:
        facts["decision_id"] = str(progress.decision_id)
    reply = progress.reply
    if reply is None:
        return _waiting(progress, asked, facts)
    if reply.outcome == "denied":
        return _denied(progress, reply.content, facts)
    if reply.outcome == "stopped":
        return Failure(400, "turn_stopped", "The answer was stopped by a person.", facts=facts)
    if reply.outcome == "failed":
        run_code = _code(progress, reply.run_id)
        # What is wrong with a request, and not with a model, keeps its own code.
        status, code, retry = _FAILURES.get(run_code, (422, run_code, False))
        return Failure(
            status,
            code,
            reply.content,
            param=_PARAMS.get(code),
            # The same key gets the same failure.
            retry=retry and not asked.keyed,
            facts=facts,
        )
    return None


def _waiting(progress: Progress, asked: Asked, facts: dict[str, Any]) -> Failure:
    held = next(iter(progress.waits.values()))
    facts["decision_id"] = str(held.decision_id)
    if held.approval_id is not None:
        again = (
            "Send the same with the same Idempotency-Key once it is decided"
            if asked.keyed
            else f"The answer comes to session {asked.session_id} once it is decided"
        )
        return Failure(
            403,
            "approval_needed",
            f"This waits for approval {held.approval_id}: {held.reason} {again}.",
            facts={**facts, "approval_id": str(held.approval_id), "rule": held.rule},
        )
    if held.retry_after is None:
        raise AssertionError("what waits has an approval or a time")
    seconds = max(1, -int((datetime.now(UTC) - held.retry_after).total_seconds() // 1))
    return Failure(
        429,
        "rate_limit_exceeded",
        f"{held.reason} Try again in {seconds} s.",
        retry=True,
        after=seconds,
        facts={**facts, "rule": held.rule},
    )


def _denied(progress: Progress, text: str, facts: dict[str, Any]) -> Failure:
    refused = progress.refused
    if progress.short_of_budget or (refused is not None and refused.budget is not None):
        return Failure(429, "insufficient_quota", text, facts=facts)
    if refused is not None:
        facts["rule"] = refused.rule
    return Failure(403, "denied_by_policy", text, facts=facts)


def _code(progress: Progress, run_id: UUID) -> str:
    """Return why the turn failed: the code of the run that it names, else of the last one that failed."""
    own = progress.finished.get(run_id)
    failed = [run.code for run in progress.finished.values() if run.status == "failed"]
    if own is not None and own.status == "failed":
        return own.code
    return failed[-1] if failed else ""


def embeddings_as_json(answer: RelayAnswer, *, as_base64: bool) -> dict[str, Any]:
    """Return the list of embeddings."""
    vectors = [_packed(vector) if as_base64 else list(vector) for vector in answer.embeddings]
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": place, "embedding": vector}
            for place, vector in enumerate(vectors)
        ],
        "model": answer.model,
        "usage": {"prompt_tokens": answer.prompt_tokens, "total_tokens": answer.prompt_tokens},
    }


def _packed(vector: Sequence[float]) -> str:
    """Return 32-bit floats, little-endian, in base64, as OpenAI's clients ask for them."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
