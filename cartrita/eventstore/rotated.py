"""A new key for tree heads as a fact."""

from typing import ClassVar

from cartrita.eventstore.types import Event


class SigningKeyRotated(Event):
    """A new key signs tree heads from here on; `replaced` is the one before it, none where it is lost."""

    type_name: ClassVar[str] = "eventstore.SigningKeyRotated"

    verifier_key: str
    replaced: str | None
