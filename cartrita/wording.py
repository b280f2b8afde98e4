"""Counts in English, for what commands print and what is kept in logs; pages use Django's translations."""


def counted(count: int, one: str, several: str = "") -> str:
    """Return how many there are of what: `1 row`, `2 rows`; `several` where it is not `one` and an s."""
    return f"{count} {one if count == 1 else several or f'{one}s'}"
