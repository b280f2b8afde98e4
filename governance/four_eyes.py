"""Four eyes: where two people may decide, nobody decides alone on what is their own. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

# Four eyes stay on for so long after a second person last held the role. Who gives roles could else take the
# second person's, decide alone, and give it back.
COOLING = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class FourEyes:
    """Whether a second person must agree, and who may be one.

    `holders` (`user:<id>`) hold one of the roles now and may sign in. `until` is when four eyes end unless a
    second person gets the role before, None where they are off, or two people hold it.
    """

    on: bool
    holders: frozenset[str] = frozenset()
    until: datetime | None = None

    @property
    def remedy(self) -> str:
        """What to do where nobody else can agree, with a space before it; empty where somebody can."""
        if self.until is None:
            return ""
        return (
            " Nobody else holds such a role now, and four eyes stay on until "
            f"{self.until:%Y-%m-%d %H:%M} UTC, {COOLING.days} days after a second person last held one: "
            "give somebody the role, or wait until then."
        )

    @property
    def details(self) -> Mapping[str, Any]:
        """What an error says of it to programs."""
        return {} if self.until is None else {"four_eyes_until": self.until.isoformat()}


def four_eyes_of(held: Mapping[UUID, datetime | None], *, now: datetime) -> FourEyes:
    """Return four eyes among those who held a role within the cooling time: until when, None for who does.

    They are on while these are two people or more, at once or one after the other.
    """
    holders = frozenset(f"user:{user_id}" for user_id, until in held.items() if until is None)
    lately = sorted((until for until in held.values() if until and until + COOLING > now), reverse=True)
    on = len(holders) + len(lately) > 1
    until = lately[1 - len(holders)] + COOLING if on and len(holders) < 2 else None
    return FourEyes(on=on, holders=holders, until=until)
