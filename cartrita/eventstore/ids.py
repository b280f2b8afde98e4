"""Identifiers: UUIDv7 (RFC 9562) for what is new, UUIDv5 for what is derived from what exists."""

from uuid import UUID, SafeUUID, uuid5

import uuid_utils

# Where an id keeps its number. Each event has an id, and UUID's own way of making one checks, converts and
# sets by way of a refusal to be set: twice the time of making the number.
_put_number = vars(UUID)["int"].__set__
_put_safety = vars(UUID)["is_safe"].__set__
_make = object.__new__
_UNKNOWN = SafeUUID.unknown


def new_id() -> UUID:
    """Return a new UUIDv7, so that ids sort by the time of their making."""
    made = _make(UUID)
    _put_number(made, uuid_utils.uuid7().int)
    _put_safety(made, _UNKNOWN)
    return made


def derived_id(parent: UUID, name: str) -> UUID:
    """Return the id that `name` always has under `parent`: a repeated act meets its own first trace."""
    return uuid5(parent, name)
