"""What the REST views of governance share."""

from datetime import datetime
from typing import Any

from django.utils.dateparse import parse_datetime
from rest_framework import serializers
from rest_framework.request import Request

from cartrita.errors import BadInput


def validated(serializer: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    """Return the checked body of a request. Raises DRF's ValidationError."""
    wanted = serializer(data=request.data)
    wanted.is_valid(raise_exception=True)
    found: dict[str, Any] = wanted.validated_data
    return found


def time_parameter(request: Request, name: str) -> datetime | None:
    """Return a time of the query string, None where it is missing. Raises BadInput."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        at = parse_datetime(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise BadInput(f"{name} is a time with its zone, such as 2026-03-01T00:00:00Z.", field=name)
    return at
