"""Which event types exist, and how stored shapes of the past become those of today."""

import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, create_model

from cartrita.errors import CartritaError
from cartrita.eventstore.types import Event, SealedMarker

Upcast = Callable[[dict[str, Any]], dict[str, Any]]

_TYPE_NAME = re.compile(r"[a-z][a-z_]*\.[A-Z][A-Za-z0-9]*")
_classes: dict[str, type[Event]] = {}
_upcasters: dict[tuple[str, int], "_Upcaster"] = {}
# What `reader` found.
_readers: dict[tuple[str, int], Callable[[bytes], Event]] = {}


class UnknownEventType(CartritaError):
    """The store holds an event whose class is not loaded."""

    code: ClassVar[str] = "unknown_event_type"
    status: ClassVar[int] = 500


class NewerEventVersion(CartritaError):
    """The store holds an event in a shape that a newer version of Cartrita wrote."""

    code: ClassVar[str] = "newer_event_version"
    status: ClassVar[int] = 500


class EventTypesWrong(CartritaError):
    """Event classes or upcasters contradict one another; found at start-up."""

    code: ClassVar[str] = "event_types_wrong"
    status: ClassVar[int] = 500


@dataclass(frozen=True, slots=True)
class _Upcaster:
    to_type: str
    to_version: int
    function: Upcast


@dataclass(frozen=True, slots=True)
class Shape:
    """What the store must know of an event class: its sealed fields and their empty values once erased.

    `lenient` accepts any value in the sealed fields, so that an erased event passes its own constraints.
    """

    cls: type[Event]
    sealed: tuple[str, ...]
    empty: Mapping[str, Any]
    lenient: type[Event]

    def is_text(self, name: str) -> bool:
        """Tell whether a sealed field is always text, so that its token opens to the text itself."""
        return bool(self.empty[name] == "")


def event_class(type_name: str) -> type[Event]:
    """Return the class of a type name. Raises UnknownEventType when no loaded module defines it."""
    found = _classes.get(type_name)
    if found is None:
        _scan()
        found = _classes.get(type_name)
    if found is None:
        raise UnknownEventType(
            f"No loaded class has the type name {type_name!r}: start the newer version of Cartrita that "
            "wrote it, list its module in settings.EVENT_MODULES, or register an upcaster from it",
            type_name=type_name,
        )
    return found


def all_event_classes() -> list[type[Event]]:
    """Return every loaded event class, ordered by type name."""
    _scan()
    return [_classes[name] for name in sorted(_classes)]


def upcaster(
    type_name: str, from_version: int, *, to_type: str | None = None, to_version: int | None = None
) -> Callable[[Upcast], Upcast]:
    """Register a pure dict -> dict function from one stored shape to the next, used when reading.

    Goes to `from_version` + 1 of the same type unless told otherwise (a type that was renamed). Sealed fields
    are tokens here: they may be moved and renamed, never read.
    """

    def register(function: Upcast) -> Upcast:
        key = (type_name, from_version)
        if key in _upcasters:
            raise EventTypesWrong(f"Two upcasters are registered for {type_name} version {from_version}")
        target = _Upcaster(to_type or type_name, to_version or from_version + 1, function)
        if (target.to_type, target.to_version) == key:
            raise EventTypesWrong(f"The upcaster of {type_name} version {from_version} leads to itself")
        _upcasters[key] = target
        return function

    return register


def upcast(type_name: str, version: int, stored: dict[str, Any]) -> tuple[type[Event], dict[str, Any]]:
    """Return today's class and shape of a stored event.

    Raises UnknownEventType, NewerEventVersion, EventTypesWrong for a version that no upcaster takes.
    """
    while (step := _upcasters.get((type_name, version))) is not None:
        stored = step.function(stored)
        type_name, version = step.to_type, step.to_version
    cls = event_class(type_name)
    if version > cls.schema_version:
        raise NewerEventVersion(
            f"{type_name} is stored in version {version}, and this version of Cartrita knows it up to "
            f"version {cls.schema_version}: start the newer one that wrote it",
            type_name=type_name,
            schema_version=version,
        )
    if version != cls.schema_version:
        raise EventTypesWrong(
            f"{type_name} is stored in version {version} and its class is version {cls.schema_version}: "
            "register the missing upcaster"
        )
    return cls, stored


def stored_names(classes: Iterable[type[Event]]) -> list[str]:
    """Return the type names under which events of these classes may stand in the store."""
    names = {cls.type_name for cls in classes}
    while earlier := {old for (old, _), step in _upcasters.items() if step.to_type in names} - names:
        names |= earlier
    return sorted(names)


def is_current(type_name: str, version: int) -> bool:
    """Tell whether a stored shape needs no upcaster."""
    return (type_name, version) not in _upcasters and event_class(type_name).schema_version == version


def reader(type_name: str, version: int) -> Callable[[bytes], Event] | None:
    """Return what reads a stored shape that is today's and has nothing sealed; None for any other.

    Raises UnknownEventType.
    """
    stored = (type_name, version)
    if stored in _upcasters:
        return None
    found = _readers.get(stored)
    if found is None and is_current(type_name, version):
        cls = event_class(type_name)
        if not shape(cls).sealed:
            found = _readers[stored] = cls.__pydantic_validator__.validate_json
    return found


def check_event_types() -> None:
    """Raise EventTypesWrong for doubled or malformed type names, and for gaps and cycles in the upcasters."""
    for cls in all_event_classes():
        shape(cls)
        for version in range(1, cls.schema_version):
            if (cls.type_name, version) not in _upcasters:
                raise EventTypesWrong(
                    f"{cls.type_name} is at version {cls.schema_version} and has no upcaster "
                    f"from version {version}"
                )
    for start in _upcasters:
        seen = [start]
        while (step := _upcasters.get(seen[-1])) is not None:
            following = (step.to_type, step.to_version)
            if following in seen:
                trail = " -> ".join(f"{name} {version}" for name, version in [*seen, following])
                raise EventTypesWrong(f"Upcasters form a cycle: {trail}")
            seen.append(following)
        name, version = seen[-1]
        if name not in _classes or _classes[name].schema_version != version:
            raise EventTypesWrong(
                f"The upcasters from {start[0]} {start[1]} end at {name} {version}, which is no class"
            )


def load_modules(names: list[str]) -> None:
    """Import the named modules; one that does not exist is left out, an error inside one is raised."""
    for name in names:
        package = name.rpartition(".")[0]
        if (not package or find_spec(package)) and find_spec(name):
            import_module(name)


@cache
def shape(cls: type[Event]) -> Shape:
    """Return what the store must know of an event class. Raises EventTypesWrong for a nested Sealed."""
    sealed = tuple(
        name
        for name, info in cls.model_fields.items()
        if any(isinstance(item, SealedMarker) for item in info.metadata)
    )
    for name, info in cls.model_fields.items():
        if _mentions_sealed(info.annotation):
            raise EventTypesWrong(
                f"{cls.type_name}.{name} has Sealed inside another type: seal the whole field, as Sealed[...]"
            )
    empty = {name: _empty(cls.model_fields[name].annotation) for name in sealed}
    lenient = cls
    if sealed:
        loose: dict[str, Any] = dict.fromkeys(sealed, (Any, None))
        lenient = create_model(f"{cls.__name__}Erased", __base__=cls, **loose)
    return Shape(cls=cls, sealed=sealed, empty=empty, lenient=lenient)


def _scan() -> None:
    found: dict[str, type[Event]] = {}
    for cls in _descendants(Event):
        # Only the class that states the name counts; helpers built on it inherit the name.
        name = cls.__dict__.get("type_name")
        if not name:
            continue
        if not _TYPE_NAME.fullmatch(name):
            raise EventTypesWrong(
                f"{cls.__qualname__} has the type name {name!r}: write it as <app>.<ClassName>"
            )
        if name in found and found[name] is not cls:
            raise EventTypesWrong(
                f"{cls.__module__}.{cls.__qualname__} and {found[name].__module__}."
                f"{found[name].__qualname__} both have the type name {name!r}"
            )
        found[name] = cls
    _classes.update(found)
    _readers.clear()


def _descendants(cls: type[Event]) -> Iterator[type[Event]]:
    for child in cls.__subclasses__():
        yield child
        yield from _descendants(child)


def _mentions_sealed(annotation: Any, within: tuple[Any, ...] = ()) -> bool:
    if isinstance(annotation, SealedMarker):
        return True
    if annotation in within:
        return False
    return any(_mentions_sealed(part, (*within, annotation)) for part in _parts(annotation))


def _parts(annotation: Any) -> tuple[Any, ...]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.values()
        return tuple(part for info in fields for part in (info.annotation, *info.metadata))
    return (*get_args(annotation), *getattr(annotation, "__metadata__", ()))


def _empty(annotation: Any) -> Any:
    """Return the empty value of a field type: "", 0, [], {} …, None where it is allowed or nothing fits."""
    origin = get_origin(annotation)
    if origin in {Union, types.UnionType}:
        return None if type(None) in get_args(annotation) else _empty(get_args(annotation)[0])
    kind = origin or annotation
    if kind in {str, int, float, bool, list, tuple, dict, set, frozenset, bytes}:
        return kind()
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_construct()
    return None
