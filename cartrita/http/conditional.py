"""Entity tags (RFC 9110, sections 8.8.3 and 13): read what changed only, change only what one saw.

The tag of a resource with a version is `"<version>-<digest of the answer>"`, that of any other answer its
digest alone. If-None-Match compares whole tags; If-Match looks at the version, so that what changes without
one (the balance of a budget, how long ago somebody wrote) is in nobody's way.
"""

import hashlib
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from django.http import HttpResponse, HttpResponseBase, HttpResponseNotModified
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.errors import BadInput, CartritaError
from cartrita.eventstore import StreamMoved

# One of our entity tags, or any: what If-Match takes.
TAG_PATTERN: Final = r'^("[0-9]{1,9}(-[0-9a-f]{16})?"|\*)$'
IF_MATCH: Final = OpenApiParameter(
    "If-Match",
    {"type": "string", "pattern": TAG_PATTERN},
    OpenApiParameter.HEADER,
    description="The ETag of what you saw; 412 where it changed since.",
)
_VERSIONED = re.compile(r'"([0-9]{1,9})(?:-[0-9a-f]{16})?"')
# What a cache is told of the answer also belongs to one that says that nothing changed.
_KEPT_HEADERS = ("ETag", "Cache-Control", "Vary", "RateLimit", "RateLimit-Policy")


class PreconditionFailed(CartritaError):
    """What If-Match names is not what is there now."""

    code = "precondition_failed"
    status = 412


def entity_tag(version: int) -> dict[str, str]:
    """Return the header that names a version; a digest of the answer is added to it when it is written."""
    return {"ETag": f'"{version}"'}


def expected_version(request: Request) -> int | None:
    """Return the version that `If-Match` names, None without it and for `*`. Raises BadInput."""
    tag = request.headers.get("If-Match", "*").strip()
    if tag == "*":
        return None
    found = _VERSIONED.fullmatch(tag)
    if found is None:
        raise BadInput("If-Match is the one ETag of an earlier answer, or *.", field="If-Match")
    return int(found[1])


def require_version(request: Request, version: int) -> None:
    """Raise PreconditionFailed where `If-Match` names another version than this one, BadInput as above."""
    expected = expected_version(request)
    if expected is not None and expected != version:
        raise _failed(expected, version)


def failed_precondition(request: Request, error: Exception) -> Exception:
    """Return what a failure is for this request: a stream that moved fails the precondition of If-Match."""
    expected = request.headers.get("If-Match", "*").strip()
    if isinstance(error, StreamMoved) and expected != "*":
        return _failed(error.details["expected_version"], error.details["actual_version"])
    return error


def tagged(request: Request, response: HttpResponseBase) -> HttpResponseBase:
    """Give the answer to a read its entity tag, or answer 304 where the caller has it; a stream has none."""
    if response.status_code != HTTPStatus.OK or request.method not in {"GET", "HEAD"}:
        return response
    asked = request.headers.get("If-None-Match", "")
    if isinstance(response, Response):
        response.add_post_render_callback(lambda rendered: _tag(asked, rendered))
    elif isinstance(response, HttpResponse):
        return _tag(asked, response) or response
    return response


def matches(if_none_match: str, tag: str) -> bool:
    """Tell whether a list of entity tags names this one (weak comparison), or any."""
    wanted = {each.strip().removeprefix("W/") for each in if_none_match.split(",")}
    return "*" in wanted or tag.removeprefix("W/") in wanted


def _tag(asked: str, response: HttpResponse) -> HttpResponseNotModified | None:
    digest = hashlib.sha256(response.content).hexdigest()[:16]
    version = response.headers.get("ETag", "").strip('"')
    tag = f'"{version}-{digest}"' if version else f'"{digest}"'
    response.headers["ETag"] = tag
    if not asked or not matches(asked, tag):
        return None
    return HttpResponseNotModified(headers=_kept(response.headers))


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in _KEPT_HEADERS if name in headers}


def _failed(expected: int, actual: int) -> PreconditionFailed:
    return PreconditionFailed(
        f"It is at version {actual}, not {expected}: read it again, and decide again.",
        field="If-Match",
        expected_version=expected,
        actual_version=actual,
    )
