"""What leaves the log with its proofs: events in files, capsules, and whole ranges of the log.

The formats are those of docs/verify.md; `cartrita.verify` checks them without a database.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, LiteralString
from uuid import UUID

import orjson
import psycopg

from cartrita import verify
from cartrita.errors import BadInput, CartritaError, Conflict, TooLarge
from cartrita.eventstore import codec, sealing
from cartrita.eventstore.aio import connection_parameters
from cartrita.eventstore.blobs import UnknownBlob
from cartrita.eventstore.canonical import canonical_json, rfc3339
from cartrita.eventstore.codec import Row
from cartrita.eventstore.heads import HeadMissing, Signing, latest_head
from cartrita.eventstore.listing import Entry, entries
from cartrita.eventstore.log import LogNotContiguous
from cartrita.eventstore.nodes import StoredTree
from cartrita.eventstore.proofs import complete_subtrees
from cartrita.eventstore.proving import EventMissing
from cartrita.eventstore.rows import COLUMNS, leaf_of
from cartrita.eventstore.signing import SigningKeyUnusable
from cartrita.eventstore.store import execute
from cartrita.eventstore.types import RecordedEvent

_FETCH = 2_000
_RANGE_NAME = re.compile(r"\d{12}-\d{12}\.range")
_SHOWN_AT_ONCE = 500

_RANGE: LiteralString = f"""
    select log.position, log.leaf, {COLUMNS} from log left join event using (stream_id, version)
    where log.position between %(first)s and %(last)s order by log.position
"""  # noqa: S608 - a constant list of columns
_EVENTS: LiteralString = f"""
    select log.position, log.leaf, {COLUMNS} from log join event using (stream_id, version)
    where log.position = any(%s) order by log.position
"""  # noqa: S608 - as above
_NEWEST_HEAD: LiteralString = "select note from tree_head order by size desc limit 1"
_BLOB: LiteralString = "select content from blob where sha256 = %b::bytea and key_id is not null"
_KEYS: LiteralString = "select verifier_key from signing_key order by adopted_at, verifier_key"
_OF_STREAM: LiteralString = "select position from log where stream_id = %b::uuid order by position"


class FileExists(BadInput):
    """The file is there already; nothing is written over another file."""

    code: ClassVar[str] = "file_exists"


class OtherHistory(Conflict):
    """The log is not the one that was exported before."""

    code: ClassVar[str] = "other_history"


class NotVerified(CartritaError):
    """A file is not what this installation gave out; `details` hold the fault."""

    code: ClassVar[str] = "not_verified"


class EventAltered(CartritaError):
    """A stored event is not the one that was ordered: it is not given out as if it were."""

    code: ClassVar[str] = "event_altered"
    status: ClassVar[int] = 500


@dataclass(frozen=True, slots=True)
class Exported:
    """A range that was written, verified under this installation's keys and put in its place."""

    file: Path
    first: int
    last: int
    head: int
    root: str
    bytes: int


def event_members(position: int, row: Row) -> dict[str, Any]:
    """Return an event as it stands in capsules and ranges; `data` is the stored canonical text."""
    members: dict[str, Any] = {"position": position}
    for name, value in zip(codec.COLUMNS, row, strict=True):
        match value:
            case UUID():
                members[name] = str(value)
            case datetime():
                members[name] = rfc3339(value)
            case bytes() | memoryview():
                members[name] = bytes(value).decode()
            case _:
                members[name] = value
    return members


# Capsules


def make_capsule(positions: Sequence[int], *, decision: Mapping[str, Any] | None = None) -> bytes:
    """Return a capsule of the events of these positions, proven to the newest signed head.

    `decision` has the members of that name in docs/verify.md but `not_visible`, which is found here. Raises
    HeadMissing, EventMissing, EventAltered, TooLarge.
    """
    _sign_up_to(max(positions))
    with _snapshot() as connection:
        return _capsule(connection, positions, decision)


def signed_positions_of(stream_id: UUID) -> list[int]:
    """Return the positions of a stream's events as far as the newest signed head goes, in order."""
    positions = [position for (position,) in execute(_OF_STREAM, [stream_id]).fetchall()]
    if positions:
        _sign_up_to(positions[-1])
    with _snapshot() as connection:
        head = _newest_head(connection)
    return [position for position in positions if position <= head.size]


def sealed_blob(sha256_hex: str) -> bytes:
    """Return the ciphertext of a sealed blob. Raises UnknownBlob."""
    row = execute(_BLOB, [bytes.fromhex(sha256_hex)]).fetchone()
    if row is None:
        raise UnknownBlob(f"No sealed blob has the hash {sha256_hex}")
    return bytes(row[0])


def _capsule(
    connection: psycopg.Connection[Any], positions: Sequence[int], decision: Mapping[str, Any] | None
) -> bytes:
    head = _newest_head(connection)
    beyond = [position for position in positions if position > head.size]
    if beyond:
        raise HeadMissing(
            f"Position {beyond[0]} is beyond the newest signed head, of {head.size} events: try again when "
            "the signer has signed a newer one.",
            field="position",
        )
    rows = connection.execute(_EVENTS, [list(positions)]).fetchall()
    missing = set(positions) - {row[0] for row in rows}
    if missing:
        raise EventMissing(
            f"There is no event at position {min(missing)}: positions go from 1 to {head.size}.",
            field="position",
        )
    tree = StoredTree(_executing(connection))
    for position, leaf, *row in rows:
        _check(position, leaf, tuple(row))
    events = [event_members(position, tuple(row)) for position, _, *row in rows]
    if decision is not None:
        lines = [verify.EventLine(**members) for members in events]
        sealed = [f"{line.type}.{name}" for line in lines for name in line.sealed()]
        decision = {**decision, "not_visible": sealed}
    content = canonical_json(
        {
            "format": verify.CAPSULE,
            "events": events,
            "proofs": [tree.inclusion(position, head.size).as_dict() for position, *_ in rows],
            "checkpoint": head.note,
            "verifier_keys": _signers(connection, head),
            "decision": decision,
        }
    )
    if len(content) >= verify.MOST_FILE_BYTES:
        raise TooLarge(
            f"The capsule would take {len(content)} bytes, at most {verify.MOST_FILE_BYTES} are read again: "
            "leave the blobs out (--without-blobs)",
            field="blobs",
        )
    content += b"\n"
    # What this installation would not accept itself is not given out.
    with verifying():
        verify.verify_capsule(content, verify.Trust(_all_keys(connection)))
    return content


# Ranges


def export_range(first: int, last: int | None, path: Path) -> Exported:
    """Write the events of positions `first` to `last` (None: the newest signed head's) with their proof.

    Streams in constant memory, of one snapshot. The file gets its name when it was verified and is on disk.
    Raises BadInput, HeadMissing, FileExists, EventAltered, NotVerified, OSError.
    """
    if first < 1:
        raise BadInput(f"FIRST is {first}: positions begin at 1", field="first")
    if path.exists():
        raise FileExists(f"{path} is there already: name another file, or remove it", field="out")
    if last is not None:
        _sign_up_to(last)
    with _snapshot() as connection:
        head = _newest_head(connection)
        last = head.size if last is None else last
        if last < first:
            raise BadInput(f"LAST is {last}, before FIRST, {first}: name them in order", field="last")
        if last > head.size:
            raise HeadMissing(
                f"LAST is {last}, the newest signed head is of {head.size} events: name one up to that, or "
                "try again when the signer has signed a newer one",
                field="last",
            )
        descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                _write_range(connection, file, first, last, head)
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                report = _verified_range(file, _all_keys(connection))
                size = file.tell()
            # Fails where another file came to stand there meanwhile.
            os.link(unfinished, path)
        except FileExistsError:
            raise FileExists(f"{path} is there already: name another file", field="out") from None
        finally:
            Path(unfinished).unlink()
    return Exported(path, first, last, report.size, report.root, size)


def export_next(folder: Path, last: int | None) -> Exported | None:
    """Write the range after those that a folder holds, up to a position (None: the newest signed head's).

    Return None where there is nothing new. Raises OtherHistory where the log does not go on from the newest
    range in the folder, and as `export_range`.
    """
    names = sorted(name for path in folder.iterdir() if _RANGE_NAME.fullmatch(name := path.name))
    first = 1
    if names:
        newest = folder / names[-1]
        head = _head_of_range(newest)
        with _snapshot() as connection:
            size = _newest_head(connection).size
            if size < head.size or StoredTree(_executing(connection)).root(head.size) != head.root:
                raise OtherHistory(
                    f"The log does not go on from {newest}: it was restored to before it, or altered. "
                    "Begin a new folder, and run `manage.py verify_log`",
                    field="out",
                )
        first = int(names[-1].split("-")[1].removesuffix(".range")) + 1
    if last is None:
        with _snapshot() as connection:
            last = _newest_head(connection).size
    if last < first:
        return None
    return export_range(first, last, folder / f"{first:012}-{last:012}.range")


def read_range(path: Path, keys: Sequence[str] = (), *, unseal: bool = False) -> Iterator[Entry]:
    """Verify an exported range, then give its events as `manage.py list_events` shows those of the log.

    Sealed text is opened with `unseal` where its key stands here. Nothing comes into the database. Raises
    NotVerified before the first event, BadInput (keys), OSError.
    """
    with path.open("rb") as file:
        _verified_range(file, trusted(keys))
        # The same open file: what was verified is what is read.
        file.seek(0)
        batch: list[verify.EventLine] = []
        for event in verify.range_events(file, verify.Trust(trusted(keys)), verify.Report("range")):
            batch.append(event)
            if len(batch) == _SHOWN_AT_ONCE:
                yield from entries([_row(one) for one in batch], unseal=unseal)
                batch = []
        yield from entries([_row(one) for one in batch], unseal=unseal)


def decoded(event: verify.EventLine) -> RecordedEvent:
    """Return an event of a file as it is read from the log, opened where its key stands here.

    Raises what reading it from the log raises.
    """
    row = _row(event)
    key_id = row[codec.KEY_COLUMN]
    return codec.decode(row, sealing.ciphers([key_id] if key_id else []))


def trusted(keys: Sequence[str] = ()) -> tuple[verify.Key, ...]:
    """Return given verifier keys (or files of them), else this installation's. Raises BadInput, OSError."""
    if not keys:
        with _snapshot() as connection:
            return _all_keys(connection)
    try:
        return tuple(key for given in keys for key in verify.read_keys(given))
    except verify.Fault as fault:
        raise BadInput(f"--key: {fault.message}", field="key") from None


@contextmanager
def verifying() -> Iterator[None]:
    """Turn a fault that the verifier finds into NotVerified."""
    try:
        yield
    except verify.Fault as fault:
        place = f" (position {fault.position})" if fault.position else ""
        raise NotVerified(
            f"{fault.name}{place}: {fault.message}", field=fault.field or None, fault=fault.as_dict()
        ) from None


def _write_range(
    connection: psycopg.Connection[Any], file: BinaryIO, first: int, last: int, head: verify.Head
) -> None:
    tree = StoredTree(_executing(connection))
    before = complete_subtrees(0, first - 1)
    node = tree.getter(before)
    header = {
        "format": verify.RANGE,
        "origin": head.origin,
        "first": first,
        "last": last,
        "frontier": [node(subtree).hex() for subtree in before],
        "verifier_keys": _signers(connection, head),
    }
    footer = {"checkpoint": head.note, "consistency": tree.consistency(last, head.size).as_dict()}
    file.write(canonical_json(header) + b"\n")
    expected = first
    with connection.cursor(name="exported", binary=True) as cursor:
        cursor.itersize = _FETCH
        cursor.execute(_RANGE, {"first": first, "last": last})
        for position, leaf, *row in cursor:
            if position != expected:
                break
            _check(position, leaf, tuple(row))
            members = {**event_members(position, tuple(row)), "leaf": bytes(leaf).hex()}
            file.write(canonical_json(members) + b"\n")
            expected += 1
    if expected <= last:
        raise LogNotContiguous(
            f"Position {expected} is not in the log: run `manage.py verify_log`", position=expected
        )
    file.write(canonical_json(footer) + b"\n")


def _head_of_range(path: Path) -> verify.Head:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - verify.MOST_LINE_BYTES))
        line = file.read().rstrip(b"\n").rpartition(b"\n")[2]
    try:
        return verify.parse_head(str(orjson.loads(line)["checkpoint"]), str(path))
    except (orjson.JSONDecodeError, KeyError, TypeError, verify.Fault):
        raise BadInput(f"{path} is no whole range: remove it, or name another folder", field="out") from None


def _verified_range(file: BinaryIO, keys: tuple[verify.Key, ...]) -> verify.Report:
    with verifying():
        return verify.verify_range(file, verify.Trust(keys))


def _row(event: verify.EventLine) -> Row:
    return (
        event.position,
        UUID(event.stream_id),
        event.version,
        UUID(event.event_id),
        event.type,
        event.schema_version,
        datetime.fromisoformat(event.recorded_at),
        UUID(event.workspace_id),
        UUID(event.session_id) if event.session_id else None,
        UUID(event.causation_id) if event.causation_id else None,
        event.actor,
        event.trace_id,
        UUID(event.key_id) if event.key_id else None,
        event.data.encode(),
    )


# Both


@contextmanager
def _snapshot() -> Iterator[psycopg.Connection[Any]]:
    """Open a connection of its own that sees one moment, so that events, tree and head belong together."""
    with psycopg.connect(**connection_parameters()) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        yield connection


def _executing(connection: psycopg.Connection[Any]) -> Any:
    def execute(statement: LiteralString, parameters: Sequence[Any]) -> psycopg.Cursor[Any]:
        return connection.execute(statement, parameters, binary=True)

    return execute


def _sign_up_to(position: int) -> None:
    """Sign a head that holds a position where there is none yet and this process has the key.

    A server that runs has signed within a second; where none runs, this is who signs. Raises LogForked.
    """
    head = latest_head()
    if head is None or head.size < position:
        with suppress(SigningKeyUnusable):
            Signing().sign(pause=0)


def _newest_head(connection: psycopg.Connection[Any]) -> verify.Head:
    row = connection.execute(_NEWEST_HEAD).fetchone()
    if row is None:
        raise HeadMissing(
            "No tree head is signed yet: start the server, whose signer does, and try again.",
            field="position",
        )
    with verifying():
        return verify.parse_head(row[0], "tree_head.note")


def _all_keys(connection: psycopg.Connection[Any]) -> tuple[verify.Key, ...]:
    with verifying():
        return tuple(verify.parse_key(text, "signing_key") for (text,) in connection.execute(_KEYS))


def _signers(connection: psycopg.Connection[Any], head: verify.Head) -> list[str]:
    """Return the verifier keys of those that signed a head."""
    signed = {(name, key_id) for name, key_id, _ in head.signatures}
    return [key.text for key in _all_keys(connection) if (key.name, key.key_id) in signed]


def _check(position: int, leaf: bytes, row: Row) -> None:
    if row[2] is None or leaf_of(row) != bytes(leaf):
        raise EventAltered(
            f"The event of position {position} is not the one that was ordered: run `manage.py verify_log`",
            position=position,
        )
