"""Errors in OpenAI's shape: {"error": {message, type, param, code}} with the status that its clients expect.

OpenAI's clients try 408, 409, 429 and 5xx again by themselves. `x-should-retry` tells them where that would
be wrong: what a rule denied, what people have to approve, what is recorded and would only be asked twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from django.http import JsonResponse

from cartrita.errors import CartritaError
from cartrita.http.problems import problem_of

RETRY_SECONDS = 2

# Our codes that OpenAI's clients know under another one.
_CODES = {
    "token_not_valid": "invalid_api_key",
    "not_signed_in": "invalid_api_key",
    "unknown_model": "model_not_found",
    "unknown_agent": "model_not_found",
    "message_too_large": "context_length_exceeded",
    "context_too_long": "context_length_exceeded",
    "filtered": "content_filter",
    "throttled": "rate_limit_exceeded",
    "too_many_requests": "rate_limit_exceeded",
}
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """What is told to a program that gets no answer.

    `retry` says whether the same request may help later, `after` after how many seconds, if that is known.
    `facts` stand beside the message: session, decision, approval.
    """

    status: int
    code: str
    message: str
    param: str | None = None
    retry: bool = False
    after: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """Return the answer's body."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        if self.code == "insufficient_quota":
            kind = "insufficient_quota"
        told = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": {**self.facts, **told}}

    @property
    def headers(self) -> dict[str, str]:
        """Return what the answer says beside its body."""
        headers = {"x-should-retry": "true" if self.retry else "false"}
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="cartrita"'
        if self.retry and self.status in (429, 503):
            headers["Retry-After"] = str(self.after or RETRY_SECONDS)
        return headers


class Unsupported(CartritaError):
    """A parameter asks for what is not done here, and an answer without it would be another one."""

    code: ClassVar[str] = "unsupported_parameter"


class UnknownParameter(CartritaError):
    """A parameter is not one of this API."""

    code: ClassVar[str] = "unknown_parameter"


class WrongValue(CartritaError):
    """A parameter's value cannot be accepted; the message says which ones can."""

    code: ClassVar[str] = "invalid_value"


def failure_of(error: Exception) -> Failure | None:
    """Return what an error is to a program, None for one that nobody foresaw."""
    members = problem_of(error)
    if members is None:
        return None
    code, status = str(members["code"]), int(members["status"])
    facts = dict(error.details) if isinstance(error, CartritaError) else {}
    return Failure(
        status=400 if code == "message_too_large" else status,
        code=_CODES.get(code, code),
        message=str(members["detail"]),
        param=members.get("field"),
        retry=status in (429, 503) and code != "model_not_configured",
        after=facts.get("retry_after"),
        facts=facts,
    )


def answer_failure(failure: Failure, headers: Mapping[str, str]) -> JsonResponse:
    """Return a failure as a whole answer."""
    return JsonResponse(failure.body, status=failure.status, headers={**headers, **failure.headers})
