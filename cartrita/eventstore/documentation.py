"""docs/events.md and the JSON schemas, both written from the event classes."""

import json
import types
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from inspect import cleandoc
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin
from uuid import UUID

from django.apps import apps
from django.conf import settings
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cartrita.eventstore import registry
from cartrita.eventstore.canonical import canonical_json
from cartrita.eventstore.types import Event

HEADER = """# Events

Everything that happens is one of these immutable facts. `manage.py events_docs` writes this page from the
event classes themselves; a change of a stored shape shows here and in the snapshot of the JSON schemas.

Every event stands in one stream under a version (from 1), and carries beside the fields below: its event id,
type, schema version, time of recording, workspace, session (if any), the event that caused it, actor, trace
id, and the id of the key that seals it. **Sealed** fields may hold personal text: they are stored encrypted,
and are empty once their key was destroyed. Times are UTC in microseconds, amounts of money are integers in
millionths of their currency's unit.
"""

_NAMES: dict[Any, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    UUID: "id",
    datetime: "time",
    bytes: "bytes",
    type(None): "nothing",
    Any: "any JSON",
    dict: "object",
    list: "list",
}


def product_events() -> list[type[Event]]:
    """Return the event classes of the installed apps, ordered by type name."""
    return [cls for cls in registry.all_event_classes() if apps.get_containing_app_config(cls.__module__)]


def events_page() -> str:
    """Return docs/events.md."""
    parts = [HEADER]
    classes = product_events()
    parts.append(_contents(classes))
    app = ""
    for cls in classes:
        if _app(cls) != app:
            app = _app(cls)
            parts.append(_section(app, [one for one in classes if _app(one) == app]))
        parts.append(_event(cls))
    return "\n".join(parts)


def schemas() -> dict[str, bytes]:
    """Return each type's stored JSON schema as a canonical, readable text by file name."""
    return {f"{cls.type_name}.json": _schema(cls) for cls in product_events()}


def page_path() -> Path:
    """Return where the page stands."""
    return Path(settings.BASE_DIR) / "docs" / "events.md"


def _contents(classes: Sequence[type[Event]]) -> str:
    lines = ["| event | version | says |", "| --- | --- | --- |"]
    for cls in classes:
        anchor = cls.type_name.replace(".", "").lower()
        lines.append(f"| [{cls.type_name}](#{anchor}) | {cls.schema_version} | {_first_line(cls)} |")
    return "\n".join(lines) + "\n"


def _section(app: str, classes: Sequence[type[Event]]) -> str:
    names = [cls.type_name.partition(".")[2] for cls in classes]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    title = apps.get_app_config(app).verbose_name
    count = "this event" if len(names) == 1 else f"these {len(names)} events"
    return f"## {title}\n\nThe {title.lower()} app (`{app}`) records {count}: {listed}.\n"


def _event(cls: type[Event]) -> str:
    sealed = registry.shape(cls).sealed
    lines = [f"### {cls.type_name}\n", f"{_documentation(cls)}\n"]
    lines.append(f"Version {cls.schema_version}, recorded by `{_app(cls)}` (`{cls.__module__}`).\n")
    nested: list[type[BaseModel]] = []
    if cls.model_fields:
        lines += ["| field | type | |", "| --- | --- | --- |"]
        lines += [
            _field(name, info, sealed=name in sealed, nested=nested)
            for name, info in cls.model_fields.items()
        ]
        lines.append("")
    for model in nested:
        lines += [
            f"A **{model.__name__}**: {_documentation(model)}\n",
            "| field | type | |",
            "| --- | --- | --- |",
        ]
        lines += [
            _field(name, info, sealed=False, nested=nested) for name, info in model.model_fields.items()
        ]
        lines.append("")
    return "\n".join(lines)


def _field(name: str, info: FieldInfo, *, sealed: bool, nested: list[type[BaseModel]]) -> str:
    notes = []
    if sealed:
        notes.append("**sealed**")
    if info.description:
        notes.append(" ".join(cleandoc(info.description).split()))
    if (
        not info.is_required()
        and info.default_factory is None
        and info.default not in (None, "", (), 0, False)
    ):
        notes.append(f"`{info.default!r}` unless given")
    return f"| `{name}` | {_type(info.annotation, nested)} | {_cell('; '.join(notes))} |"


def _type(annotation: Any, nested: list[type[BaseModel]]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in {Union, types.UnionType}:
        named = [_type(one, nested) for one in arguments if one is not type(None)]
        return " or ".join(named) + (" or nothing" if type(None) in arguments else "")
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in {list, tuple, set, frozenset}:
        inner = [_type(one, nested) for one in arguments if one is not Ellipsis]
        return f"list of {', '.join(inner)}"
    if origin is dict:
        return f"object of {_type(arguments[0], nested)} to {_type(arguments[1], nested)}"
    if origin is not None and hasattr(annotation, "__metadata__"):
        return _type(arguments[0], nested)
    if annotation in _NAMES:
        return _NAMES[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{member.value}`" for member in annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation not in nested:
            nested.append(annotation)
        return annotation.__name__
    return getattr(annotation, "__name__", str(annotation))


def _schema(cls: type[Event]) -> bytes:
    schema = _without_prose(cls.model_json_schema())
    schema["x-sealed"] = list(registry.shape(cls).sealed)
    schema["x-version"] = cls.schema_version
    ordered = json.loads(canonical_json(schema))
    return (json.dumps(ordered, indent=1, ensure_ascii=False) + "\n").encode()


def _without_prose(part: Any) -> Any:
    """Return a schema without titles and descriptions: the snapshot is of shapes, not of their wording."""
    if isinstance(part, dict):
        return {
            name: _without_prose(value)
            for name, value in part.items()
            if not (name in {"title", "description"} and isinstance(value, str))
        }
    if isinstance(part, list):
        return [_without_prose(value) for value in part]
    return part


def _app(cls: type[Event]) -> str:
    return cls.type_name.partition(".")[0]


def _documentation(cls: type[BaseModel]) -> str:
    # A class without a docstring of its own must not speak with its parent's.
    return cleandoc(cls.__dict__.get("__doc__") or "").strip() or "(not described)"


def _first_line(cls: type[BaseModel]) -> str:
    return _cell(_documentation(cls).split("\n\n")[0])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
