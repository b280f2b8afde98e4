"""What a check found."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, how it is, and how to mend it ("" where it is well)."""

    name: str
    status: Status
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON-compatible values."""
        return asdict(self)


def ok(name: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(name, "ok", found)


def warn(name: str, found: str, remedy: str) -> Finding:
    """Return what works and deserves a look."""
    return Finding(name, "warn", found, remedy)


def fail(name: str, found: str, remedy: str) -> Finding:
    """Return what does not work, or is not safe."""
    return Finding(name, "fail", found, remedy)


def guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """Run a check; one that itself breaks is a finding too, so that the others are still made."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - said to whoever asked, with all that is known of it
        return fail(name, f"{type(error).__name__}: {error}".strip(), "Mend what is said; then look again.")
