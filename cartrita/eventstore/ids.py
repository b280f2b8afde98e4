"""Identifiers: UUIDv7 (RFC 9562) for what is new, UUIDv5 for what is derived from what exists."""

from uuid import UUID, uuid5

import uuid_utils


def new_id() -> UUID:
    """Return a new UUIDv7, so that ids sort by the time of their making."""
    return UUID(int=uuid_utils.uuid7().int)


def derived_id(parent: UUID, name: str) -> UUID:
    """Return the id that `name` always has under `parent`: a repeated act meets its own first trace."""
    return uuid5(parent, name)
