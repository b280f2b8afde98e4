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
_ANSWERS = {
    "get": (401, 403, 404),
    "delete": (401, 403, 404),
    "post": (400, 401, 403, 404, 409, 413, 415, 422),
    "put": (400, 401, 403, 404, 409, 412, 413, 415),
    "patch": (400, 401, 403, 404, 409, 412, 413, 415),
}
_IDEMPOTENCY_KEY = {
    "in": "header",
    "name": HEADER,
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": KEY_LIMIT},
    "description": "A repeated request with the same key gets the first answer, for 24 hours.",
}


def describe_problems(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Add the problem answers to every operation and Idempotency-Key to every POST (drf-spectacular hook)."""
    del generator, request, public
    result.setdefault("components", {}).setdefault("schemas", {})["Problem"] = _PROBLEM
    answer = {"content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for operations in result["paths"].values():
        for method, operation in operations.items():
            for status in _ANSWERS.get(method, ()):
                described = {"description": _title(status), **answer}
                operation["responses"].setdefault(str(status), described)
            if method == "get" and operation.get("parameters"):
                operation["responses"].setdefault("400", {"description": _title(400), **answer})
            if method == "post":
                operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
    return result


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
    }[status]
