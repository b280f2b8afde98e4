"""Foreseen failures: each says what is wrong, with a stable code, and becomes a clear answer at every
edge."""

from typing import Any, ClassVar


class CartritaError(Exception):
    """A foreseen failure.

    `code` is stable and machine readable, `status` is the HTTP status of the same failure, `field` names the
    input that is wrong (JSON path or option name), `details` holds further JSON-compatible facts.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 400

    def __init__(self, message: str, *, field: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.details = details

    @property
    def exit_code(self) -> int:
        """How a command ends with it: 2 where what was asked for is at fault, else 1."""
        return 2 if self.status in {400, 404, 413} else 1


class BadInput(CartritaError):
    """The caller sent something that cannot be accepted; the message says what to send instead."""

    code = "bad_input"


class NotFound(CartritaError):
    """Nothing with that id exists for this caller (also the answer for another workspace's ids)."""

    code = "not_found"
    status = 404


class NotSignedIn(CartritaError):
    """The caller is unknown, or the token, ticket or session has ended."""

    code = "not_signed_in"
    status = 401


class NotAllowed(CartritaError):
    """The caller is known and may not do this."""

    code = "not_allowed"
    status = 403


class Conflict(CartritaError):
    """What the caller knew has changed in the meantime."""

    code = "conflict"
    status = 409


class TooLarge(CartritaError):
    """The input is above a limit; the message names the limit in bytes."""

    code = "too_large"
    status = 413


class Unavailable(CartritaError):
    """A part that is needed does not answer now; trying again later may succeed."""

    code = "unavailable"
    status = 503
