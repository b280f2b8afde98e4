"""Bodies in the blob table that name the one before them: what begins alike is stored once. Pure.

`cartrita.eventstore.blobs.put_chain` writes them.
"""

from collections.abc import Callable

# In front of each body stands the hash of the one before it; of the first one, nothing but zeros.
BEFORE_BYTES = 32
FIRST = bytes(BEFORE_BYTES)


def get_chain(last: str, read: Callable[[str], bytes]) -> list[bytes]:
    """Return the bodies of a chain, first to last; `read` gets a blob by its hash. Raises what it raises."""
    contents: list[bytes] = []
    while last:
        body = read(last)
        contents.append(body[BEFORE_BYTES:])
        before = body[:BEFORE_BYTES]
        last = "" if before == FIRST else before.hex()
    contents.reverse()
    return contents
