"""The event store: append, log, projections, sealing and erasure, integrity.

Pure modules import the types below before Django is ready; everything else loads on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cartrita.eventstore.ids import derived_id, new_id
from cartrita.eventstore.types import Append, Context, Event, RecordedEvent, Sealed

if TYPE_CHECKING:
    from cartrita.eventstore.fields import SealedTextField as SealedTextField

_HOME_OF = {
    "SealedTextField": "fields",
}

__all__ = ["Append", "Context", "Event", "RecordedEvent", "Sealed", "derived_id", "new_id"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
