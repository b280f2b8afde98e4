"""Lists in pages that neither skip nor repeat a row when rows are added meanwhile (keyset pagination)."""

import base64
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from django.core.exceptions import ValidationError
from django.db.models import Model, Q, QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from pydantic import TypeAdapter
from rest_framework.request import Request

from cartrita.errors import BadInput

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 200

PAGE_PARAMETERS: Final = [
    OpenApiParameter("cursor", OpenApiTypes.STR, description="`next_cursor` of the page before."),
    OpenApiParameter(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": LARGEST_LIMIT, "default": DEFAULT_LIMIT},
        description="Entries on a page.",
    ),
]

Row = TypeVar("Row", bound=Model)
Item = TypeVar("Item")
_Texts = TypeAdapter(list[str])


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, and where the next ones begin (None: there are no more)."""

    items: list[Any]
    next_cursor: str | None


def page_of(
    rows: QuerySet[Row], *, order: Sequence[str], cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page:
    """Return the page of `rows` after `cursor`.

    `order` names fields that together are unique, all ascending or all descending (with "-"). Raises BadInput
    for a cursor that this list did not give.
    """
    names = [name.removeprefix("-") for name in order]
    descending = order[0].startswith("-")
    if cursor:
        values = _values(rows.model, names, cursor)
        rows = rows.filter(_beyond(names, values, "lt" if descending else "gt"))
    found: list[Any] = list(rows.order_by(*order)[: limit + 1])
    more = len(found) > limit
    items = found[:limit]
    return Page(items, _cursor(items[-1], names) if more else None)


def page_of_all(
    items: Iterable[Item],
    *,
    key: Callable[[Item], str],
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page:
    """Return the page after `cursor` of what was computed as a whole, in the order of its unique keys.

    Raises BadInput for a cursor that no list gives.
    """
    ordered = sorted(items, key=key)
    start = bisect_right(ordered, _texts(cursor, 1)[0], key=key) if cursor else 0
    found = ordered[start : start + limit]
    more = start + limit < len(ordered)
    return Page(found, _encoded([key(found[-1])]) if more else None)


def cursor_of(row: Model, order: Sequence[str]) -> str:
    """Return the cursor behind a row, for `page_of` with the same order."""
    return _cursor(row, [name.removeprefix("-") for name in order])


def page_parameters(request: Request) -> tuple[str | None, int]:
    """Return `cursor` and `limit` of a request. Raises BadInput naming the parameter."""
    limit = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 6 and 1 <= int(limit) <= LARGEST_LIMIT):
        raise BadInput(f"A page holds 1 to {LARGEST_LIMIT} entries.", field="limit")
    return request.query_params.get("cursor"), int(limit)


def _beyond(names: Sequence[str], values: Sequence[Any], comparison: str) -> Q:
    """Compare rows with a tuple of values, first name first."""
    condition = Q()
    for index, name in enumerate(names):
        equal = dict(zip(names[:index], values, strict=False))
        condition |= Q(**equal, **{f"{name}__{comparison}": values[index]})
    return condition


def _cursor(row: Any, names: Sequence[str]) -> str:
    return _encoded([str(getattr(row, name)) for name in names])


def _encoded(values: Sequence[str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def _values(model: type[Model], names: Sequence[str], cursor: str) -> list[Any]:
    texts = _texts(cursor, len(names))
    try:
        fields: list[Any] = [model._meta.get_field(name) for name in names]  # noqa: SLF001 # public in Django
        values = [_in_utc(field.to_python(text)) for field, text in zip(fields, texts, strict=True)]
    except (ValueError, ValidationError, OverflowError):
        values = []
    if not values or None in values:
        raise _foreign_cursor()
    return values


def _in_utc(value: Any) -> Any:
    """Return a time as PostgreSQL is told it. Raises OverflowError for one that is before the year 1."""
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo is not None else value


def _texts(cursor: str, count: int) -> list[str]:
    try:
        decoded = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        texts = _Texts.validate_json(decoded)
    except ValueError:
        texts = []
    # PostgreSQL takes no NUL in a text.
    if len(texts) != count or any("\0" in text for text in texts):
        raise _foreign_cursor()
    return texts


def _foreign_cursor() -> BadInput:
    return BadInput("This cursor is of no page of this list; start without one.", field="cursor")
