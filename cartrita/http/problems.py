"""Errors as answers: problem+json (RFC 9457) for programs, a page for people."""

import logging
import math
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from rest_framework import exceptions
from rest_framework.response import Response

from cartrita.errors import CartritaError
from cartrita.telemetry import current_trace_id

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
PROGRAM_PATHS = ("/api/", "/v1/", "/health", "/metrics")
RETRY_AFTER_SECONDS = 2


def problem(
    *, status: int, code: str, detail: str, field: str | None = None, details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the members of a problem (RFC 9457) with our `code`, the wrong `field` and the trace id."""
    members: dict[str, Any] = {
        **(details or {}),
        "type": f"urn:cartrita:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
        "trace_id": current_trace_id(),
    }
    if field is not None:
        members["field"] = field
    return members


def problem_of(error: Exception) -> dict[str, Any] | None:
    """Return the problem that an error is, None for one that nobody foresaw."""
    match error:
        case CartritaError():
            return problem(
                status=error.status,
                code=error.code,
                detail=error.message,
                field=error.field,
                details=error.details,
            )
        case exceptions.ValidationError():
            wrong = list(_wrong_fields(error.get_full_details()))
            first_field, first_detail = wrong[0]
            errors = [{"field": field, "detail": detail} for field, detail in wrong]
            return problem(
                status=400,
                code="bad_input",
                detail=f"{first_field}: {first_detail}" if first_field else first_detail,
                field=first_field or None,
                details={"errors": errors},
            )
        case exceptions.APIException():
            return problem(
                status=error.status_code,
                code=_own_code(str(error.default_code)),
                detail=str(error.detail),
            )
        case RequestDataTooBig():
            return problem(
                status=413, code="body_too_large", detail="The fields of the form are above the limit."
            )
        case SuspiciousOperation():
            return problem(status=400, code="bad_input", detail="The request cannot be accepted as it is.")
        case Http404():
            return problem(status=404, code="not_found", detail="There is nothing here for this caller.")
        case PermissionDenied():
            return problem(status=403, code="not_allowed", detail="You may not do this.")
        case OperationalError() | InterfaceError():
            return problem(
                status=503, code="unavailable", detail="The database does not answer now; try again soon."
            )
        case _:
            return None


def answer_rest_error(error: Exception, context: Mapping[str, Any]) -> Response | None:
    """Answer an error of a REST view (REST_FRAMEWORK["EXCEPTION_HANDLER"]); None lets Django report it."""
    del context
    members = problem_of(error)
    if members is None:
        return None
    if members["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("A request failed: %s", members["detail"], exc_info=error)
    return Response(
        members, status=members["status"], headers=_headers(members, error), content_type=CONTENT_TYPE
    )


class ProblemMiddleware:
    """Answer errors that no REST view answered: as problems where programs ask, as pages where people ask."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Replace Django's own error pages under the programs' paths."""
        response = self.get_response(request)
        if (
            response.status_code < HTTPStatus.BAD_REQUEST
            or not _asked_by_program(request)
            or response.headers.get("Content-Type", "").startswith((CONTENT_TYPE, "application/json"))
        ):
            return response
        status = HTTPStatus(response.status_code)
        members = problem(
            status=status,
            code=_own_code(status.phrase.lower().replace(" ", "_").replace("-", "_")),
            detail=_DETAILS.get(status, f"{status.phrase}."),
        )
        replaced = JsonResponse(members, status=status, content_type=CONTENT_TYPE)
        # Among them are those that keep browsers from guessing, framing and telling.
        for name, value in response.headers.items():
            if not name.startswith("Content-") or name in _KEPT_OF_CONTENT:
                replaced.headers[name] = value
        replaced.cookies = response.cookies
        return replaced

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer a foreseen error of a page."""
        members = problem_of(error)
        if members is None or isinstance(error, Http404 | PermissionDenied | SuspiciousOperation):
            return None
        headers = _headers(members, error)
        if _asked_by_program(request):
            return JsonResponse(members, status=members["status"], headers=headers, content_type=CONTENT_TYPE)
        page = render(request, "problem.html", {"problem": members}, status=members["status"])
        for name, value in headers.items():
            page.headers[name] = value
        return page


_KEPT_OF_CONTENT = {"Content-Security-Policy", "Content-Security-Policy-Report-Only"}
_DETAILS = {
    HTTPStatus.BAD_REQUEST: "The request cannot be understood.",
    HTTPStatus.FORBIDDEN: "You may not do this.",
    HTTPStatus.NOT_FOUND: "There is nothing at this address.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Something failed here; tell the operator the trace id.",
}


def _asked_by_program(request: HttpRequest) -> bool:
    path = request.path
    return path.startswith(PROGRAM_PATHS) or path == "/readyz"


def _own_code(code: str) -> str:
    """Return our word for a failure that Django or DRF names in another way."""
    return {
        "authentication_failed": "not_signed_in",
        "not_authenticated": "not_signed_in",
        "unauthorized": "not_signed_in",
        "permission_denied": "not_allowed",
        "forbidden": "not_allowed",
        "parse_error": "bad_input",
        "bad_request": "bad_input",
        "throttled": "too_many_requests",
        "error": "internal_server_error",
    }.get(code, code)


def _headers(members: Mapping[str, Any], error: Exception) -> dict[str, str]:
    headers: dict[str, str] = {}
    match members["status"]:
        case HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Bearer realm="cartrita"'
        case HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = str(members.get("retry_after", RETRY_AFTER_SECONDS))
        case HTTPStatus.TOO_MANY_REQUESTS:
            wait = members.get("retry_after") or getattr(error, "wait", None)
            if isinstance(wait, int | float):
                headers["Retry-After"] = str(math.ceil(wait))
    return headers


def _wrong_fields(details: Any, path: str = "") -> list[tuple[str, str]]:
    """Flatten DRF's nested details into (path, message)."""
    if isinstance(details, Mapping):
        if set(details) == {"message", "code"}:
            return [(path, str(details["message"]))]
        return [found for name, inner in details.items() for found in _wrong_fields(inner, _path(path, name))]
    nested = [_is_message(item) for item in details]
    return [
        found
        for index, item in enumerate(details)
        for found in _wrong_fields(item, path if nested[index] else f"{path}[{index}]")
    ]


def _path(path: str, name: str | int) -> str:
    if name == "non_field_errors":
        return path
    if isinstance(name, int):
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else name


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and set(item) == {"message", "code"}
