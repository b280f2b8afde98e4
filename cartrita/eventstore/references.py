"""Which blobs events name: found in what events and blobs say, so that no type can forget to tell.

A name is 64 hexadecimal digits anywhere in an event, its sealed fields opened, or in a blob that is named
itself; or the link before a link. What is named once is named for ever, since events stay: each event and
each blob is read once.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import orjson
from django.db import transaction
from psycopg.types.numeric import Int4, Int8

from cartrita.errors import CartritaError
from cartrita.eventstore import codec, registry, sealing
from cartrita.eventstore.arrays import byteas
from cartrita.eventstore.chain import BEFORE_BYTES
from cartrita.eventstore.codec import KEY_COLUMN, Ciphers, Row
from cartrita.eventstore.fields import SEALED_JSON, SEALED_PREFIX
from cartrita.eventstore.rows import COLUMNS
from cartrita.eventstore.sealing import DataKeyCipher, SealBroken
from cartrita.eventstore.store import execute
from cartrita.eventstore.types import Event

BATCH = 500

_NAME = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_TOKEN = re.compile(rf'"({re.escape(SEALED_PREFIX)}[A-Za-z0-9_=-]+(?:{re.escape(SEALED_JSON)})?)"'.encode())


# No key has this id.
_NOBODY = UUID(int=0)


class _Need(NamedTuple):
    """The first event that names a blob, and the key that seals that event."""

    position: int
    key_id: UUID | None


@dataclass(frozen=True, slots=True)
class MissingBlob:
    """A blob that an event names, and that is not there (`lost`) or not as it was stored (`altered`)."""

    sha256: str
    problem: str
    position: int
    type_name: str
    stream_id: UUID
    version: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-compatible values."""
        return {**asdict(self), "stream_id": str(self.stream_id)}


def find_references() -> int:
    """Note the blobs that events name which were ordered since the last time; return how many are new.

    Joins the caller's transaction. Raises MasterKeyMissing.
    """
    found = 0
    while True:
        with transaction.atomic():
            # One at a time: two would read the same.
            row = execute("select position from blob_scan for update").fetchone()
            position = int(row[0]) if row else 0
            rows = execute(_EVENTS, [Int8(position), Int4(BATCH)]).fetchall()
            if not rows:
                return found
            found += _note_events(rows)
            execute("update blob_scan set position = %b::bigint", [Int8(rows[-1][0])])


def missing_blobs(*, read_all: bool = False) -> Iterator[MissingBlob]:
    """Yield the blobs that events name and that are not there, though their key is not erased.

    `read_all`: also those whose bytes do not have their hash any more. Only for what `find_references` noted.
    """
    for statement in (_LOST, _ALTERED) if read_all else (_LOST,):
        for row in execute(statement).fetchall():
            digest, problem, position, type_name, stream_id, version = row
            yield MissingBlob(digest.hex(), problem, position, type_name, stream_id, version)


def _note_events(rows: Sequence[Row]) -> int:
    """Note what the events name, and what that names in turn; return how many are new."""
    ciphers = sealing.ciphers({row[KEY_COLUMN] for row in rows if row[KEY_COLUMN] is not None})
    wanted: dict[bytes, _Need] = {}
    certain: set[bytes] = set()
    for row in rows:
        need = _Need(row[0], row[KEY_COLUMN])
        declared = _declared(row, ciphers)
        certain.update(declared)
        for digest in (*declared, *_names_in_event(bytes(row[-1]), ciphers.get(need.key_id or _NOBODY))):
            wanted.setdefault(digest, need)
    new = _note(wanted, certain)
    count = len(new)
    while new:
        deeper: dict[bytes, _Need] = {}
        links: set[bytes] = set()
        for digest in new:
            before, names = _named_in(digest)
            if before is not None:
                links.add(before)
            for name in names:
                deeper.setdefault(name, wanted[digest])
        new = _note(deeper, links)
        wanted.update({digest: deeper[digest] for digest in new})
        count += len(new)
    return count


def _note(wanted: Mapping[bytes, _Need], certain: set[bytes]) -> list[bytes]:
    """Note those that are blobs, or are certainly meant to be; return those that were not noted before."""
    if not wanted:
        return []
    rows = execute("select sha256 from blob where sha256 = any(%b::bytea[])", [byteas(list(wanted))])
    there = {row[0] for row in rows.fetchall()}
    return [
        digest
        for digest in sorted(wanted)
        if (digest in there or digest in certain)
        and execute(_NOTE, [digest, Int8(wanted[digest].position), wanted[digest].key_id]).rowcount
    ]


def _declared(row: Row, ciphers: Ciphers) -> set[bytes]:
    """Return what an event says itself that it names; nothing where this version cannot read it."""
    try:
        cls, _ = registry.upcast(row[4], row[5], orjson.loads(bytes(row[-1])))
        if cls.named_blobs is Event.named_blobs:
            return set()
        return {bytes.fromhex(name) for name in codec.decode(row, ciphers).event.named_blobs() if name}
    except (CartritaError, ValueError):
        return set()


def _names_in_event(data: bytes, cipher: DataKeyCipher | None) -> list[bytes]:
    names = _names(data)
    if cipher is None:
        return names
    for token in _TOKEN.findall(data):
        # What does not open is no token, or was altered: nobody can read a name in it.
        with suppress(SealBroken):
            names += _names(cipher.unseal(token.decode()).encode())
    return names


def _named_in(digest: bytes) -> tuple[bytes | None, list[bytes]]:
    """Return the link before a blob, if it is one of a chain, and all that may be a name in it."""
    row = execute("select content, key_id, before from blob where sha256 = %b::bytea", [digest]).fetchone()
    if row is None:
        return None, []
    content, key_id, before = bytes(row[0]), row[1], row[2]
    if key_id is not None:
        cipher = sealing.ciphers([key_id]).get(key_id)
        try:
            content = cipher.unseal_blob(content) if cipher is not None else b""
        except SealBroken:
            content = b""
    # Links that were stored before rows had `before` have it in their content alone.
    return before, [before or content[:BEFORE_BYTES], *_names(content)]


def _names(content: bytes) -> list[bytes]:
    """Return what could be names; of some there is no blob, and nobody asks for them."""
    return [bytes.fromhex(name.decode()) for name in _NAME.findall(content)]


_EVENTS: LiteralString = (
    "select log.position, " + COLUMNS + " from log join event using (stream_id, version) "  # noqa: S608
    "where log.position > %b::bigint order by log.position limit %b::int"
)
_NOTE: LiteralString = (
    "insert into blob_reference (sha256, position, key_id) values (%b::bytea, %b::bigint, %b::uuid) "
    "on conflict (sha256) do nothing"
)
_LOST: LiteralString = (
    "select sha256, 'lost', position, type, stream_id, version from blob_reference "
    "join log using (position) join event using (stream_id, version) "
    "where not exists (select from blob where blob.sha256 = blob_reference.sha256) "
    "and not exists (select from data_key "
    "where data_key.key_id = blob_reference.key_id and data_key.wrapped is null) order by position"
)
_ALTERED: LiteralString = (
    "select sha256, 'altered', position, type, stream_id, version from blob_reference "
    "join blob using (sha256) join log using (position) join event using (stream_id, version) "
    "where sha256(blob.content) <> sha256 order by position"
)
