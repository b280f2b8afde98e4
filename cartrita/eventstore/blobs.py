"""Large bodies beside the log, addressed by the SHA-256 of what is stored."""

from collections.abc import Sequence
from hashlib import sha256
from typing import ClassVar
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
    """Return a body. Raises UnknownBlob, Erased, BlobAltered, BadInput for what is no hexadecimal SHA-256.

    `key_id` may be left out: the blob knows its own.
    """
    try:
        digest = bytes.fromhex(sha256_hex)
    except ValueError:
        raise BadInput("A blob is named by the SHA-256 in hexadecimal digits", field="sha256") from None
    row = execute(_SELECT, [digest]).fetchone()
    if row is None:
        raise UnknownBlob(f"No blob has the hash {sha256_hex}")
    stored, sealed_by = row
    if sha256(stored).digest() != digest:
        raise BlobAltered(f"The blob {sha256_hex} was altered in the database")
    if sealed_by is None:
        return bytes(stored)
    return sealing.cipher(key_id or sealed_by).unseal_blob(stored)


def put_chain(contents: Sequence[bytes], *, key_id: UUID | None) -> str:
    """Store bodies, at least one, each after the one before it; return the SHA-256 of the last.

    Chains under one key that begin alike share their beginning, and only what is new is sent: who makes a
    chain a link longer stores one link. Joins the caller's transaction. Raises UnknownKey, Erased.
    """
    cipher = sealing.cipher(key_id) if key_id else None
    links: list[tuple[bytes, bytes]] = []
    before = FIRST
    for content in contents:
        body = before + content
        stored = cipher.seal_blob(body) if cipher else body
        before = sha256(stored).digest()
        links.append((before, stored))
    # A link that stands has all before it, because they came with it. Mostly the last or the one before it
    # stands; of a chain that is new all is sent, in a few pieces.
    many = 1
    with transaction.atomic(savepoint=False):
        while links:
            links, new = links[:-many], links[-many:]
            new.reverse()
            digests, bodies = byteas([one for one, _ in new]), byteas([body for _, body in new])
            if execute(_INSERT_MANY, [key_id, digests, bodies]).rowcount < len(new):
                break
            many *= 4
    return before.hex()


_INSERT = (
    "insert into blob (sha256, content, key_id) values (%b::bytea, %b::bytea, %b::uuid) "
    "on conflict (sha256) do nothing"
)
_INSERT_MANY = (
    "insert into blob (sha256, content, key_id) "
    "select digest, content, %b::uuid from unnest(%b::bytea[], %b::bytea[]) as link (digest, content) "
    "on conflict (sha256) do nothing"
)
_SELECT = "select content, key_id from blob where sha256 = %b::bytea"
