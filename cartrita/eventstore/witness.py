"""The witness file: every signed tree head, appended to a file that the database has no power over.

A block is a head's note, then where the head before it is of the same log (the same origin) one line of JSON
with the proof that this tree continues that one; two empty lines end it. Whoever holds a copy can check the
chain of heads without the log, and the log against any of them.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, LiteralString

from cartrita.errors import CartritaError
from cartrita.eventstore import signing, store
from cartrita.eventstore.heads import LogForked, latest_head
from cartrita.eventstore.nodes import StoredTree
from cartrita.eventstore.proofs import ConsistencyProof, ProofMalformed
from cartrita.eventstore.signed_note import LARGEST_NOTE, Checkpoint, NoteMalformed

BLOCK_ENDS = b"\n\n\n"
HEADS_AT_ONCE = 500
_TAIL_BYTES = 4 * LARGEST_NOTE

_HEADS: LiteralString = "select size, note from tree_head where size > %b::int8 order by size limit %b::int4"
# The present epoch, and what those before it have left of themselves.
_EPOCH: LiteralString = """
    select last.epoch, (select coalesce(max(size), 0) from tick where epoch < last.epoch)
    from (select epoch from tick order by number desc limit 1) as last
"""


class WitnessUnusable(CartritaError):
    """The witness file cannot be written or read, or is that of another installation."""

    code: ClassVar[str] = "witness_unusable"


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A block of a witness file: a head's note, as it stands there, and the proof that came with it."""

    number: int
    note: str
    checkpoint: Checkpoint
    proof: ConsistencyProof | None


def export_heads(path: Path) -> int:
    """Append to a witness file every head that it lacks, on disk at the end; return how many.

    Several processes may do so at the same time. Raises WitnessUnusable; LogForked when the heads of the
    database do not continue those in the file.
    """
    exported = 0
    with _locked(path) as file:
        before = _last(path, file)
        if before is not None:
            _check_same_installation(path, before.checkpoint)
        after = _first_wanted(None if before is None else before.checkpoint)
        last = None if before is None else before.checkpoint
        while heads := store.execute(_HEADS, [after, HEADS_AT_ONCE]).fetchall():
            for size, note in heads:
                checkpoint = _checkpoint(note)
                file.write(_block(note, _proof(last, checkpoint)))
                last, after = checkpoint, int(size)
                exported += 1
            file.flush()
            os.fsync(file.fileno())
    return exported


def read_witness(path: Path) -> Iterator[Witnessed]:
    """Give the heads of a witness file in its order. Raises WitnessUnusable, which names the block."""
    try:
        with path.open("rb") as file:
            for number, block in enumerate(_blocks(file), start=1):
                yield _parse(path, number, block)
    except OSError as error:
        raise WitnessUnusable(
            f"{path} cannot be read ({error.strerror}): name a file that `export_heads` wrote",
            field="witness",
        ) from error


def _block(note: str, proof: ConsistencyProof | None) -> bytes:
    line = "" if proof is None else json.dumps(proof.as_dict(), separators=(",", ":")) + "\n"
    return (note + line).encode() + b"\n\n"


def _proof(before: Checkpoint | None, after: Checkpoint) -> ConsistencyProof | None:
    """Prove that a head continues the one before it in the file; None where that is of another log."""
    if before is None or before.origin != after.origin:
        return None
    proof = StoredTree().consistency(before.size, after.size)
    if not proof.proves(before.root, after.root):
        raise LogForked(
            f"The tree head of {after.size} positions does not continue the witness's of {before.size}: "
            "nothing is exported. Run `manage.py verify_log --witness FILE`"
        )
    return proof


def _first_wanted(last: Checkpoint | None) -> int:
    """Return the size after which the file lacks heads."""
    if last is None:
        return 0
    epoch, kept = store.execute(_EPOCH).fetchone() or (0, 0)
    newest = latest_head()
    signed = None if newest is None else _checkpoint(newest.note)
    if epoch != epoch_of(last.origin) or (signed is not None and signed.origin != last.origin):
        # A restore began another epoch, which has given the positions after its backup anew.
        return min(last.size, int(kept))
    if signed is None or signed.size < last.size:
        raise LogForked(
            f"The witness has a tree head of {last.size} positions, the database none above "
            f"{signed.size if signed else 0}: it was rolled back. Run `manage.py verify_log --witness FILE`"
        )
    return last.size


def epoch_of(origin: str) -> int:
    """Return the number of the epoch that an origin names, -1 where it names none."""
    number = origin.rpartition("/")[2].partition("-")[0]
    return int(number) if number.isdecimal() and len(number) < 10 else -1


def _check_same_installation(path: Path, last: Checkpoint) -> None:
    name = signing.key_name(signing.installation_id())
    if not last.origin.startswith(f"{name}/"):
        raise WitnessUnusable(
            f"{path} has heads of {last.origin}, and this is {name}: name another file, here "
            "or in CARTRITA_WITNESS_FILE",
            field="CARTRITA_WITNESS_FILE",
        )


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
    except OSError as error:
        raise WitnessUnusable(
            f"The heads were not written to {path} ({error.strerror}): make or mount its folder, free space, "
            "or name another file, here or in CARTRITA_WITNESS_FILE",
            field="CARTRITA_WITNESS_FILE",
        ) from error


def _last(path: Path, file: BinaryIO) -> Witnessed | None:
    """Return the file's last block, and stand behind it. One that was torn off while it was written goes."""
    end = file.seek(0, os.SEEK_END)
    begin = max(0, end - _TAIL_BYTES)
    file.seek(begin)
    tail = file.read(end - begin)
    whole = tail.rfind(BLOCK_ENDS)
    if whole < 0:
        if begin:
            raise WitnessUnusable(
                f"{path} does not end with tree heads: name another file, here or in CARTRITA_WITNESS_FILE",
                field="CARTRITA_WITNESS_FILE",
            )
        if tail and not tail.startswith(b"cartrita/"):
            raise WitnessUnusable(
                f"{path} is no file of tree heads, and is not overwritten: name another one, "
                "here or in CARTRITA_WITNESS_FILE",
                field="CARTRITA_WITNESS_FILE",
            )
        file.truncate(0)
        file.seek(0)
        return None
    if begin + whole + len(BLOCK_ENDS) < end:
        file.truncate(begin + whole + len(BLOCK_ENDS))
    file.seek(begin + whole + len(BLOCK_ENDS))
    before = tail.rfind(BLOCK_ENDS, 0, whole)
    block = tail[before + len(BLOCK_ENDS) if before >= 0 else 0 : whole + 1]
    return _parse(path, 0, block)


def _blocks(file: Iterable[bytes]) -> Iterator[bytes]:
    lines: list[bytes] = []
    for line in file:
        lines.append(line)
        if lines[-2:] == [b"\n", b"\n"]:
            yield b"".join(lines[:-2])
            lines.clear()
    if lines:
        yield b"".join(lines)


def _parse(path: Path, number: int, block: bytes) -> Witnessed:
    which = f"Block {number} of {path}" if number else f"The last block of {path}"
    try:
        text = block.decode()
        note, proof = text, None
        head, _, line = text[:-1].rpartition("\n")
        if text.endswith("\n") and line.startswith("{"):
            note, proof = f"{head}\n", ConsistencyProof.from_dict(json.loads(line))
        return Witnessed(number, note, _checkpoint(note), proof)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WitnessUnusable(f"{which} is no tree head", field="witness") from error
    except (NoteMalformed, ProofMalformed) as error:
        raise WitnessUnusable(f"{which} is no tree head: {error.message}", field="witness") from error


def _checkpoint(note: str) -> Checkpoint:
    return Checkpoint.parse(note.partition("\n\n")[0] + "\n")
