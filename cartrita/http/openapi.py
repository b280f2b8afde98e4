"""What every operation has in common, said once in the OpenAPI schema."""

from typing import Any

from cartrita.http.idempotency import HEADER, KEY_LIMIT
from cartrita.http.problems import CONTENT_TYPE

_PROBLEM = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong and what to send instead."},
        "code": {"type": "string", "description": "Stable; programs decide by it."},
        "field": {"type": "string", "description": "Which input is wrong."},
        "trace_id": {"type": "string"},
    },
    "required": ["type", "title", "status", "detail", "code", "trace_id"],
}
_ANYWHERE = (401, 403, 404, 429, 503)
_ANSWERS = {
    "get": _ANYWHERE,
    "delete": (*_ANYWHERE, 409),
    "post": (*_ANYWHERE, 400, 409, 413, 415, 422),
    "put": (*_ANYWHERE, 400, 409, 413, 415),
    "patch": (*_ANYWHERE, 400, 409, 413, 415),
}
_RATE_LIMIT = {
    "RateLimit-Policy": "How many requests a minute: `q` in `w` seconds.",
    "RateLimit": "How many are left, `r`, and after how many seconds there are more, `t`.",
}
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
_IF_NONE_MATCH = {
    "in": "header",
    "name": "If-None-Match",
    "required": False,
    "schema": {"type": "string"},
    "description": "ETags of earlier answers; 304 where nothing changed since.",
}
_IDEMPOTENCY_KEY = {
    "in": "header",
    "name": HEADER,
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": KEY_LIMIT, "pattern": "^[ -~]+$"},
    "description": "A repeated request with the same key gets the first answer, for 24 hours.",
}


def describe_problems(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Add the problem answers to every operation and Idempotency-Key to every POST (drf-spectacular hook)."""
    del generator, request, public
    result.setdefault("components", {}).setdefault("schemas", {})["Problem"] = _PROBLEM
    answer = {"content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for operations in result["paths"].values():
        for method, operation in operations.items():
            _describe(method, operation, answer)
    return result


def _describe(method: str, operation: dict[str, Any], answer: dict[str, Any]) -> None:
    responses = operation["responses"]
    said = operation.get("description", "").strip().split("\n")[0]
    operation.setdefault("summary", said.removesuffix("."))
    conditional = "If-Match" in {parameter["name"] for parameter in operation.get("parameters", ())}
    statuses = [*_ANSWERS.get(method, ())]
    if operation.get("parameters"):
        statuses.append(400)
    if conditional:
        statuses.append(412)
    for status in statuses:
        described = {"description": _title(status), **answer}
        if status in {429, 503}:
            described["headers"] = _RETRY_AFTER
        responses.setdefault(str(status), described)
    for status, response in responses.items():
        # A view that names a problem of its own says only what it means.
        if status.startswith(("4", "5")):
            response.update({**answer, **response})
    if method == "post":
        operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
    if method == "get" and "application/json" in responses.get("200", {}).get("content", {}):
        operation.setdefault("parameters", []).append(_IF_NONE_MATCH)
        responses.setdefault("304", {"description": "Nothing changed since."})
        responses["200"].setdefault("headers", {})["ETag"] = {"schema": {"type": "string"}}
    for status, response in responses.items():
        if status.startswith("2"):
            headers = response.setdefault("headers", {})
            for name, text in _RATE_LIMIT.items():
                headers[name] = {"schema": {"type": "string"}, "description": text}


def _title(status: int) -> str:
    return {
        400: "The input is wrong; `field` names it.",
        401: "Nobody, or a token that has ended.",
        403: "The caller may not do this.",
        404: "Nothing with that id exists for this caller.",
        409: "What the caller knew has changed, or the same request is being answered.",
        412: "The version is not the one that If-Match names.",
        413: "The input is above a limit.",
        415: "The content type is not accepted.",
        422: "The Idempotency-Key came before with another request.",
        429: "Too many requests, or a rule says to wait; `Retry-After` says how long.",
        503: "A part that is needed does not answer now; try again after `Retry-After`.",
    }[status]
