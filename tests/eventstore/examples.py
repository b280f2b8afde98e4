"""One example of every event type as it is stored, made from its class alone and always the same."""

import types
from collections.abc import Mapping
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cartrita.eventstore import Event, registry

TOKEN = "sealed:1:AAAA"  # a sealed text as it stands in an event


def stored_example(cls: type[Event]) -> dict[str, Any]:
    """Return the stored fields of an event of this class; each sealed one is a token."""
    fields = {name: _example(info.annotation, info) for name, info in cls.model_fields.items()}
    fields |= dict.fromkeys(registry.shape(cls).sealed, TOKEN)
    return registry.shape(cls).lenient.model_validate(fields).model_dump(mode="json")


def _example(annotation: Any, info: FieldInfo | None = None) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in {Union, types.UnionType}:
        return _example(next(one for one in arguments if one is not type(None)), info)
    if origin is Literal:
        return arguments[0]
    if origin is not None and hasattr(annotation, "__metadata__"):
        return _example(arguments[0], info)
    if origin in {list, tuple, set, frozenset}:
        if origin is tuple and arguments[-1] is not Ellipsis:
            return [_example(one) for one in arguments]
        return [_example(arguments[0])]
    if origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return {_example(arguments[0]): _example(arguments[1])}
    if isinstance(annotation, type):
        if issubclass(annotation, Enum):
            return next(iter(annotation)).value
        if issubclass(annotation, BaseModel):
            return {name: _example(each.annotation, each) for name, each in annotation.model_fields.items()}
    return _SIMPLE.get(annotation, "text")


_SIMPLE: dict[Any, Any] = {
    str: "text",
    int: 1,
    float: 0.5,
    bool: True,
    bytes: "text",
    UUID: UUID("01936f3e-0000-7000-8000-000000000001"),
    datetime: datetime(2026, 1, 31, 9, tzinfo=UTC),
    date: date(2026, 1, 31),
    dict: {"name": "text"},
    list: ["text"],
}
