"""Fields of request bodies that take what the schema says, and nothing that could be turned into it.

DRF's fields are made for forms, where all is text: of a JSON body they also take "5" for 5, "yes" for
true, and 5 for an id or a text.
"""

import re
from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.utils import html

# RFC 9562, as everywhere in the API.
_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_from_anything = serializers.Field.run_validation


class Text(serializers.CharField):
    """A text. DRF's own field also takes numbers, and keeps what they look like."""

    def to_internal_value(self, data: Any) -> str:
        """Return the text. Raises ValidationError for everything else."""
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


def refuse_other_types() -> None:
    """Have the fields of every serializer refuse what is of another JSON type than the schema says.

    Forms, multipart bodies and query parameters are read as before: they know nothing but text.
    """
    # DRF has no setting for it, and every serializer of every app takes bodies: those of your own, too.
    serializers.Field.run_validation = _of_the_schema_s_type  # type: ignore[assignment]


def _of_the_schema_s_type(
    field: "serializers.Field[Any, Any, Any, Any]", data: Any = serializers.empty
) -> Any:
    if data is not serializers.empty and data is not None and _is_other_type(field, data) and _is_json(field):
        field.fail("invalid", input=data, value=data)
    return _from_anything(field, data)


def _is_other_type(field: "serializers.Field[Any, Any, Any, Any]", value: Any) -> bool:
    match field:
        case serializers.BooleanField():
            return not isinstance(value, bool)
        case serializers.IntegerField() | serializers.FloatField():
            return isinstance(value, str | bool)
        case serializers.UUIDField():
            return not isinstance(value, UUID) and not (isinstance(value, str) and _ID.fullmatch(value))
        case serializers.CharField():
            return not isinstance(value, str)
        case _:
            return False


def _is_json(field: "serializers.Field[Any, Any, Any, Any]") -> bool:
    body = getattr(field.root, "initial_data", None)
    return body is not None and not html.is_html_input(body)
