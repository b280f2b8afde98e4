"""The event store: append, log, projections, sealing and erasure, integrity.

Pure modules import the types below before Django is ready; everything else loads on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cartrita.eventstore.ids import derived_id, new_id
from cartrita.eventstore.types import Append, Context, Event, RecordedEvent, Sealed

if TYPE_CHECKING:
    from cartrita.eventstore.canonical import canonical_json as canonical_json
    from cartrita.eventstore.codec import EventTooLarge as EventTooLarge
    from cartrita.eventstore.fields import SealedTextField as SealedTextField
    from cartrita.eventstore.projections import following as following
    from cartrita.eventstore.projections import inline as inline
    from cartrita.eventstore.registry import all_event_classes as all_event_classes
    from cartrita.eventstore.registry import event_class as event_class
    from cartrita.eventstore.registry import upcaster as upcaster
    from cartrita.eventstore.sealing import Erased as Erased
    from cartrita.eventstore.sealing import create_data_key as create_data_key
    from cartrita.eventstore.sealing import erase_key as erase_key
    from cartrita.eventstore.sealing import seal as seal
    from cartrita.eventstore.sealing import unseal as unseal
    from cartrita.eventstore.sealing import unseal_or_empty as unseal_or_empty
    from cartrita.eventstore.store import EventIdReused as EventIdReused
    from cartrita.eventstore.store import StreamMoved as StreamMoved
    from cartrita.eventstore.store import append as append
    from cartrita.eventstore.store import load as load

_HOME_OF = {
    "EventIdReused": "store",
    "EventTooLarge": "codec",
    "Erased": "sealing",
    "SealedTextField": "fields",
    "StreamMoved": "store",
    "all_event_classes": "registry",
    "append": "store",
    "canonical_json": "canonical",
    "create_data_key": "sealing",
    "erase_key": "sealing",
    "event_class": "registry",
    "following": "projections",
    "inline": "projections",
    "load": "store",
    "seal": "sealing",
    "unseal": "sealing",
    "unseal_or_empty": "sealing",
    "upcaster": "registry",
}

__all__ = ["Append", "Context", "Event", "RecordedEvent", "Sealed", "derived_id", "new_id"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
