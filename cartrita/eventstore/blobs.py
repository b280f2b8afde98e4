"""Large bodies beside the log, addressed by the SHA-256 of what is stored.

A body that no event names is removed after a while (`collection.py`). Store it anew before naming it, also
where it may stand already: that keeps it for a while longer, and whoever removes it waits.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, ClassVar
from uuid import UUID

from django.db import transaction

from cartrita.errors import BadInput, CartritaError, NotFound
from cartrita.eventstore import sealing
from cartrita.eventstore.arrays import byteas
from cartrita.eventstore.chain import FIRST
from cartrita.eventstore.store import execute


class UnknownBlob(NotFound):
    """No blob has this hash."""

    code: ClassVar[str] = "unknown_blob"


class BlobLost(UnknownBlob):
    """A blob that an event names is not there, though nobody erased it."""

    code: ClassVar[str] = "blob_lost"
    status: ClassVar[int] = 500


class BlobAltered(CartritaError):
    """The stored bytes do not have the hash under which they stand."""

    code: ClassVar[str] = "blob_altered"
    status: ClassVar[int] = 500


def put_blob(content: bytes, *, key_id: UUID | None) -> str:
    """Store a body, sealed where `key_id` is given; return the hexadecimal SHA-256 of what is stored.

    The same content under the same key gives the same hash and is stored once. Joins the caller's
    transaction. Raises UnknownKey, Erased.
    """
    stored = sealing.cipher(key_id).seal_blob(content) if key_id else content
    digest = sha256(stored)
    execute(_INSERT, [digest.digest(), stored, key_id])
    return digest.hexdigest()


def get_blob(sha256_hex: str, *, key_id: UUID | None = None) -> bytes:
    """Return a body. Raises UnknownBlob, BlobLost, Erased, BlobAltered, BadInput for what is no SHA-256.

    `key_id` may be left out: the blob knows its own.
    """
    try:
        digest = bytes.fromhex(sha256_hex)
    except ValueError:
        raise BadInput("A blob is named by the SHA-256 in hexadecimal digits", field="sha256") from None
    row = execute(_SELECT, [digest]).fetchone()
    if row is None:
        raise _missing(digest, key_id)
    stored, sealed_by = row
    if sha256(stored).digest() != digest:
        raise BlobAltered(
            f"The blob {sha256_hex}{_needed_by(digest)} was altered in the database: restore it from a backup"
        )
    if sealed_by is None:
        return bytes(stored)
    return sealing.cipher(key_id or sealed_by).unseal_blob(stored)


def put_chain(contents: Sequence[bytes], *, key_id: UUID | None) -> str:
    """Store bodies, at least one, each after the one before it; return the SHA-256 of the last.

    Chains under one key that begin alike share their beginning, and only what is new is sent: who makes a
    chain a link longer stores one link. Joins the caller's transaction. Raises UnknownKey, Erased.
    """
    cipher = sealing.cipher(key_id) if key_id else None
    # Digest, digest of the link before, stored bytes.
    links: list[tuple[bytes, bytes, bytes]] = []
    before = FIRST
    for content in contents:
        body = before + content
        stored = cipher.seal_blob(body) if cipher else body
        digest = sha256(stored).digest()
        links.append((digest, before, stored))
        before = digest
    with transaction.atomic(savepoint=False):
        new = links[_standing([digest for digest, _, _ in links]) :]
        if new:
            columns = zip(*new, strict=True)
            execute(_INSERT_LINKS, [key_id, *(byteas(column) for column in columns)])
    return before.hex()


def _standing(digests: Sequence[bytes]) -> int:
    """Return how many links of a chain stand already; they cannot be removed until the transaction ends.

    Mostly the last or the one before it stands; of a chain that is new none does.
    """
    end, many = len(digests), 1
    while end:
        start = max(0, end - many)
        row = execute(_KEEP_LAST, [byteas(digests[start:end])]).fetchone()
        if row is not None:
            place, knows_before = row
            standing = start + int(place)
            # The database sees to it that all before a link stands, where the row says what is before.
            return standing if knows_before or standing == 1 else 0
        end, many = start, many * 4
    return 0


def _missing(digest: bytes, key_id: UUID | None) -> CartritaError:
    """Return the error of a blob that is not there; raises Erased where its key was destroyed."""
    row = execute(_REFERENCE, [digest]).fetchone()
    for key in (key_id, row[1] if row else None):
        if key is not None:
            sealing.cipher(key)
    if row is None:
        return UnknownBlob(f"No blob has the hash {digest.hex()}")
    return BlobLost(
        f"The blob {digest.hex()}{_needed_by(digest)} is lost: restore it from a backup, and run "
        "`manage.py collect_blobs --check` to see what else is",
        sha256=digest.hex(),
        position=row[0],
    )


def _needed_by(digest: bytes) -> str:
    """Return who names a blob, as a part of a sentence."""
    row: tuple[Any, ...] | None = execute(_NEEDED_BY, [digest]).fetchone()
    if row is None:
        return ""
    position, type_name, stream_id, version = row
    return f", which event {position} names ({type_name}, version {version} of stream {stream_id}),"


_INSERT = (
    "insert into blob (sha256, content, key_id) values (%b::bytea, %b::bytea, %b::uuid) "
    # Not "do nothing": that would not wait for whoever removes the row just now, nor keep it.
    "on conflict (sha256) do update set put_at = clock_timestamp()"
)
_INSERT_LINKS = (
    "insert into blob (sha256, content, key_id, before) "
    "select digest, content, key_id, nullif(before, decode(repeat('00', 32), 'hex')) "
    "from (select %b::uuid as key_id) as one, "
    "unnest(%b::bytea[], %b::bytea[], %b::bytea[]) as link (digest, before, content) "
    "on conflict (sha256) do update set put_at = clock_timestamp(), "
    "before = coalesce(blob.before, excluded.before)"
)
_KEEP_LAST = (
    "with last as (select sha256, place from unnest(%b::bytea[]) with ordinality as link (sha256, place) "
    "join blob using (sha256) order by place desc limit 1) "
    "update blob set put_at = clock_timestamp() from last where blob.sha256 = last.sha256 "
    "returning last.place, blob.before is not null"
)
_SELECT = "select content, key_id from blob where sha256 = %b::bytea"
_REFERENCE = "select position, key_id from blob_reference where sha256 = %b::bytea"
_NEEDED_BY = (
    "select position, type, stream_id, version from blob_reference join log using (position) "
    "join event using (stream_id, version) where sha256 = %b::bytea"
)
