"""The event store: append, log, projections, sealing and erasure, integrity.

Pure modules import the types below before Django is ready; everything else loads on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cartrita.eventstore.ids import derived_id, new_id
from cartrita.eventstore.types import Append, Context, Event, RecordedEvent, Sealed, Unreadable

if TYPE_CHECKING:
    from cartrita.eventstore.aio import async_pool as async_pool
    from cartrita.eventstore.aio import close_async as close_async
    from cartrita.eventstore.aio import in_database_thread as in_database_thread
    from cartrita.eventstore.blobs import get_blob as get_blob
    from cartrita.eventstore.blobs import put_blob as put_blob
    from cartrita.eventstore.blobs import put_chain as put_chain
    from cartrita.eventstore.canonical import canonical_json as canonical_json
    from cartrita.eventstore.catch_up import followed as followed
    from cartrita.eventstore.catch_up import run_following as run_following
    from cartrita.eventstore.codec import EventTooLarge as EventTooLarge
    from cartrita.eventstore.erasure import erase_key as erase_key
    from cartrita.eventstore.erasure import erase_subject as erase_subject
    from cartrita.eventstore.fields import SealedTextField as SealedTextField
    from cartrita.eventstore.listen import follow as follow
    from cartrita.eventstore.log import LogNotContiguous as LogNotContiguous
    from cartrita.eventstore.log import ahead as ahead
    from cartrita.eventstore.log import aload as aload
    from cartrita.eventstore.log import aread_feed as aread_feed
    from cartrita.eventstore.log import aread_log as aread_log
    from cartrita.eventstore.log import head as head
    from cartrita.eventstore.log import read_log as read_log
    from cartrita.eventstore.log import read_session_of as read_session_of
    from cartrita.eventstore.projections import following as following
    from cartrita.eventstore.projections import inline as inline
    from cartrita.eventstore.projections import inline_batched as inline_batched
    from cartrita.eventstore.projector import run_projector as run_projector
    from cartrita.eventstore.recording import Recorder as Recorder
    from cartrita.eventstore.recording import recorder as recorder
    from cartrita.eventstore.registry import all_event_classes as all_event_classes
    from cartrita.eventstore.registry import event_class as event_class
    from cartrita.eventstore.registry import upcaster as upcaster
    from cartrita.eventstore.sealing import Erased as Erased
    from cartrita.eventstore.sealing import create_data_key as create_data_key
    from cartrita.eventstore.sealing import seal as seal
    from cartrita.eventstore.sealing import unseal as unseal
    from cartrita.eventstore.sealing import unseal_or_empty as unseal_or_empty
    from cartrita.eventstore.sequencer import Sequencer as Sequencer
    from cartrita.eventstore.store import EventIdReused as EventIdReused
    from cartrita.eventstore.store import StreamMoved as StreamMoved
    from cartrita.eventstore.store import append as append
    from cartrita.eventstore.store import load as load
    from cartrita.eventstore.store import load_streams as load_streams
    from cartrita.eventstore.wake import wake_sequencer as wake_sequencer

_HOME_OF = {
    "Erased": "sealing",
    "EventIdReused": "store",
    "EventTooLarge": "codec",
    "LogNotContiguous": "log",
    "Recorder": "recording",
    "SealedTextField": "fields",
    "Sequencer": "sequencer",
    "StreamMoved": "store",
    "ahead": "log",
    "all_event_classes": "registry",
    "aload": "log",
    "append": "store",
    "aread_feed": "log",
    "aread_log": "log",
    "async_pool": "aio",
    "canonical_json": "canonical",
    "close_async": "aio",
    "create_data_key": "sealing",
    "erase_key": "erasure",
    "erase_subject": "erasure",
    "event_class": "registry",
    "follow": "listen",
    "following": "projections",
    "get_blob": "blobs",
    "head": "log",
    "in_database_thread": "aio",
    "inline": "projections",
    "inline_batched": "projections",
    "load": "store",
    "load_streams": "store",
    "put_blob": "blobs",
    "put_chain": "blobs",
    "read_log": "log",
    "read_session_of": "log",
    "recorder": "recording",
    "followed": "catch_up",
    "run_following": "catch_up",
    "run_projector": "projector",
    "seal": "sealing",
    "unseal": "sealing",
    "unseal_or_empty": "sealing",
    "upcaster": "registry",
    "wake_sequencer": "wake",
}

__all__ = ["Append", "Context", "Event", "RecordedEvent", "Sealed", "Unreadable", "derived_id", "new_id"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
