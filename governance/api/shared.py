"""What the REST views of governance share."""

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request


def validated(serializer: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    """Return the checked body of a request. Raises DRF's ValidationError."""
    wanted = serializer(data=request.data)
    wanted.is_valid(raise_exception=True)
    found: dict[str, Any] = wanted.validated_data
    return found
