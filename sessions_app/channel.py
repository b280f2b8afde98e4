"""What the channel of a session shows of each event. Apps above say how theirs look."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from cartrita.eventstore import RecordedEvent, Unreadable
from cartrita.streaming.registry import completed
from sessions_app.session import ReplyPosted

SHORT = 200

Describe = Callable[[RecordedEvent], dict[str, Any] | None]
_shown: dict[str, Describe] = {}


def register_shown(type_name: str, describe: Describe) -> None:
    """Register how an event type looks on a session's channel (None: not at all).

    Without this an event of another app shows its short values that stand in clear: types, outcomes, rules,
    amounts, ids; never personal text.
    """
    _shown[type_name] = describe


def describe(recorded: RecordedEvent) -> dict[str, Any] | None:
    """Return what the session's channel shows of an event; None: nothing."""
    if isinstance(recorded.event, Unreadable):
        return None
    if recorded.type_name in _shown:
        return _shown[recorded.type_name](recorded)
    match recorded.event:
        case ReplyPosted() as event:
            shown = event.model_dump(mode="json")
            del shown["content"]
            return {**shown, "completed": completed(event.message_id, event.content)}
        case event if recorded.type_name.startswith("sessions_app."):
            return event.model_dump(mode="json")
        case event:
            clear = set(type(event).model_fields) - set(recorded.sealed)
            values = {name: getattr(event, name) for name in sorted(clear)}
            return {name: _plain(value) for name, value in values.items() if _is_short(value)}


def _is_short(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= SHORT
    return value is None or isinstance(value, bool | int | UUID)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else value
