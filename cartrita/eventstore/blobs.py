"""Large bodies beside the log, addressed by the SHA-256 of what is stored."""

from hashlib import sha256
from typing import ClassVar
from uuid import UUID

from cartrita.errors import BadInput, CartritaError, NotFound
from cartrita.eventstore import sealing
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


_INSERT = (
    "insert into blob (sha256, content, key_id) values (%b::bytea, %b::bytea, %b::uuid) "
    "on conflict (sha256) do nothing"
)
_SELECT = "select content, key_id from blob where sha256 = %b::bytea"
