"""Four eyes for tests of what is pure."""

from datetime import datetime

from governance.four_eyes import FourEyes


def eyes(*holders: str, on: bool = True, until: datetime | None = None) -> FourEyes:
    """Return four eyes among these people."""
    return FourEyes(on=on, holders=frozenset(holders), until=until)
