"""What the REST views of governance share."""

from typing import Any
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request

from cartrita.errors import BadInput
from cartrita.http.pagination import LARGEST_LIMIT

PAGE_PARAMETERS = [
    OpenApiParameter("cursor", OpenApiTypes.STR, description="`next_cursor` of the page before."),
    OpenApiParameter(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": LARGEST_LIMIT, "default": 50},
        description="Entries on a page.",
    ),
]
IF_MATCH = OpenApiParameter(
    "If-Match",
    {"type": "string", "pattern": '^"[0-9]{1,9}"$'},
    OpenApiParameter.HEADER,
    description="The ETag of what you saw; 409 where it changed since.",
)


def entity_tag(version: int) -> dict[str, str]:
    """Return the header that names a version."""
    return {"ETag": f'"{version}"'}


def expected_version(request: Request) -> int | None:
    """Return the version that `If-Match` names, None without it. Raises BadInput."""
    tag = request.headers.get("If-Match")
    if tag is None or tag == "*":
        return None
    version = tag.removeprefix('"').removesuffix('"')
    if tag != f'"{version}"' or not (version.isascii() and version.isdigit() and len(version) < 10):
        raise BadInput("If-Match is the ETag of an earlier answer.", field="If-Match")
    return int(version)


def uuid_parameter(request: Request, name: str) -> UUID | None:
    """Return a query parameter that is an id. Raises BadInput."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        return UUID(text)
    except ValueError:
        raise BadInput(f"{name} is no UUID.", field=name) from None


def validated(serializer: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    """Return the checked body of a request. Raises DRF's ValidationError."""
    wanted = serializer(data=request.data)
    wanted.is_valid(raise_exception=True)
    found: dict[str, Any] = wanted.validated_data
    return found
