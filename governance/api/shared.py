"""What the REST views of governance share."""

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.request import Request

from cartrita.errors import BadInput


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
