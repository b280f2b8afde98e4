#!/usr/bin/env python3
"""Check, on any machine, what a Cartrita installation gave out: capsules, proofs, signed heads, ranges.

    python verify.py FILE --key KEY [--head FILE] [--consistency FILE] [--json]

One file that imports the standard library and `cryptography` alone, needs no database and trusts nobody but
the keys on its command line. Python 3.11 or newer. Formats: docs/verify.md.

Exit codes: 0 verified under a key that was given; 1 not verified, the fault is named; 2 the command was
called wrongly; 3 all fits together, but the key is the file's own claim, because no --key was given.
"""

import argparse
import base64
import binascii
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

T = TypeVar("T")

CAPSULE = "cartrita.capsule.v1"
RANGE = "cartrita.range.v1"
INCLUSION = "cartrita.inclusion.v1"
CONSISTENCY = "cartrita.consistency.v1"
LEAF_FORMAT = "cartrita.leaf.v1"
DECISION_MADE = "governance.DecisionMade"
SEALED_PREFIX = "sealed:1:"

VERIFIED, NOT_VERIFIED, MISUSED, KEY_NOT_GIVEN = 0, 1, 2, 3
# What each fault means.
FAULTS = {
    "malformed": "the file is not what its format says",
    "edit": "something was changed after it was recorded",
    "deletion": "something in the middle is missing",
    "reordering": "things are not in their order",
    "truncation": "the end is missing",
    "fork": "it is of another history than the signed one",
    "foreign_key": "none of the trusted keys signed it",
    "signature": "the signature is not of this text",
}

MOST_FILE_BYTES = 64 * 1024 * 1024
# An event holds at most 64 KiB of data, which stands as a JSON text here.
MOST_LINE_BYTES = 1024 * 1024
MOST_ITEMS = 10_000
MOST_PATH = 64
LARGEST_NUMBER = 2**53 - 1
HASH_BYTES = 32
ED25519 = 1


class Fault(Exception):
    """What is wrong: `name` is one of FAULTS, `field` and `position` say where as far as that is known."""

    def __init__(self, name: str, message: str, *, field: str = "", position: int | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.message = message
        self.field = field
        self.position = position

    def as_dict(self) -> dict[str, Any]:
        """Return the fault as JSON-compatible values."""
        return {
            "name": self.name,
            "message": self.message,
            "field": self.field or None,
            "position": self.position,
        }


class Misuse(Exception):
    """The command lacks something, or names something that is not there."""


@dataclass(frozen=True, slots=True)
class Key:
    """A public key as C2SP signed notes name it; `text` is `name+key id+base64(0x01 | 32 bytes)`."""

    name: str
    key_id: bytes
    public: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Head:
    """A signed tree head: `size` events of the log `origin` have the Merkle root `root`."""

    origin: str
    size: int
    root: bytes
    signed: bytes
    signatures: tuple[tuple[str, bytes, bytes], ...]
    note: str


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That the leaf at `position` (from 1) is in the tree of the first `size` events."""

    position: int
    leaf: bytes
    size: int
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """That the tree of `first` events is the beginning of that of `second`."""

    first: int
    second: int
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class EventLine:
    """One event as it stands in a file; `data` is the stored canonical JSON."""

    position: int
    event_id: str
    stream_id: str
    version: int
    type: str
    schema_version: int
    recorded_at: str
    workspace_id: str
    session_id: str | None
    causation_id: str | None
    actor: str
    trace_id: str
    key_id: str | None
    data: str

    def leaf(self) -> bytes:
        """Return leaf v1: SHA-256(0x00 | canonical array of the fields, `data` spliced in as stored)."""
        array = [
            LEAF_FORMAT,
            self.event_id,
            self.stream_id,
            self.version,
            self.type,
            self.schema_version,
            self.recorded_at,
            self.workspace_id,
            self.session_id,
            self.causation_id,
            self.actor,
            self.trace_id,
            self.key_id,
        ]
        head = _written(array)
        return hashlib.sha256(b"\x00" + head[:-1] + b"," + self.data.encode() + b"]").digest()

    def values(self) -> dict[str, Any]:
        """Return the event's data. Raises Fault where it is not one JSON object."""
        value = _strict_json(self.data, f"data of position {self.position}", decoder=_ALL_NUMBERS)
        if not isinstance(value, dict):
            raise Fault("malformed", "An event's data is a JSON object", field="data", position=self.position)
        return value

    def sealed(self) -> list[str]:
        """Return the names of the fields that are ciphertext."""
        return sorted(
            name
            for name, value in self.values().items()
            if isinstance(value, str) and value.startswith(SEALED_PREFIX)
        )

    def shown(self) -> dict[str, Any]:
        """Return what a report shows of the event."""
        return {
            "position": self.position,
            "event_id": self.event_id,
            "stream_id": self.stream_id,
            "version": self.version,
            "type": self.type,
            "recorded_at": self.recorded_at,
            "actor": self.actor,
            "sealed": self.sealed(),
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """What a capsule says of a decision beside its events; `blobs` maps hashes to what is stored."""

    event_id: str
    policy_hash: str
    policy_text: str
    not_visible: tuple[str, ...]
    blobs: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Capsule:
    """What stands in a capsule, each event beside its proof."""

    events: tuple[EventLine, ...]
    proofs: tuple[InclusionProof, ...]
    head: Head
    keys: tuple[Key, ...]
    decision: Decision | None


@dataclass(frozen=True, slots=True)
class Trust:
    """The keys that count, and heads and consistency proofs that the user kept or was given apart."""

    keys: tuple[Key, ...] = ()
    heads: tuple[Head, ...] = ()
    consistency: tuple[ConsistencyProof, ...] = ()


@dataclass(slots=True)
class Report:
    """What was verified. `trusted` is False where the key is the file's own claim.

    `says` are sentences about what is proven, `not_shown` about what is not.
    """

    kind: str
    origin: str = ""
    size: int = 0
    root: str = ""
    signed_by: list[str] = field(default_factory=list)
    trusted: bool = False
    says: list[str] = field(default_factory=list)
    not_shown: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON-compatible values."""
        return {
            "verified": True,
            "trusted": self.trusted,
            "kind": self.kind,
            "origin": self.origin,
            "size": self.size,
            "root": self.root,
            "signed_by": self.signed_by,
            "says": self.says,
            "not_shown": self.not_shown,
            "found": self.found,
            "fault": None,
        }


# What the command does


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what the arguments name, say what was found, and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        trust = _trust_of(options)
        report = verify_file(options.file, trust)
    except Misuse as misuse:
        _print(f"cartrita-verify: {misuse}", sys.stderr)
        return MISUSED
    except OSError as error:
        name = error.filename or options.file
        _print(f"cartrita-verify: {name} cannot be read: {error.strerror or error}", sys.stderr)
        return MISUSED
    except Fault as fault:
        _say_fault(fault, as_json=options.json)
        return NOT_VERIFIED
    _say(report, as_json=options.json)
    return VERIFIED if report.trusted else KEY_NOT_GIVEN


def verify_file(path: str | Path, trust: Trust) -> Report:
    """Check a file of any of the formats, told by its beginning. Raises Fault, Misuse, OSError."""
    with Path(path).open("rb") as file:
        start = file.readline(MOST_FILE_BYTES + 1)
        if not start.startswith(b"{"):
            return verify_heads(start + file.read(MOST_FILE_BYTES + 1), trust)
        # Proofs are small, and may have been laid out on several lines by whoever stored them.
        if start.strip() == b"{":
            start += file.read(MOST_LINE_BYTES)
        kind = _format_of(start)
        if kind == RANGE:
            file.seek(0)
            return verify_range(file, trust)
        content = start + file.read(MOST_FILE_BYTES + 1)
    if kind == CAPSULE:
        return verify_capsule(content, trust)
    if kind == INCLUSION:
        return verify_inclusion(content, trust)
    return verify_consistency(content, trust)


def verify_capsule(content: bytes, trust: Trust) -> Report:
    """Check a capsule: events under their leaves, leaves in the signed tree, a decision's policy by its hash.

    Raises Fault.
    """
    capsule = read_capsule(content)
    events, head = capsule.events, capsule.head
    report = Report("capsule")
    _check_signatures(head, capsule.keys, trust, report, field="checkpoint")
    _check_pairs(events, capsule.proofs)
    for index, (event, proof) in enumerate(zip(events, capsule.proofs, strict=True)):
        _check_leaf(event, proof.leaf, f"events[{index}]")
    for index, proof in enumerate(capsule.proofs):
        _check_included(proof, head, f"proofs[{index}]")
    _compare_kept_heads(head, trust, report)

    positions = ", ".join(str(event.position) for event in events)
    report.found["events"] = [event.shown() for event in events]
    report.says.append(
        f"{_counted(len(events), 'event')} (position {positions}) as recorded, among the "
        f"{head.size} that the head signs"
    )
    if capsule.decision is not None:
        report.kind = "decision capsule"
        _check_decision(capsule.decision, events, report)
    for event in events:
        if sealed := event.sealed():
            report.not_shown.append(f"what is sealed in position {event.position}: {', '.join(sealed)}")
    report.not_shown.append("that no other events belong to the matter: a capsule proves what is in it")
    return report


def read_capsule(content: bytes) -> Capsule:
    """Return what stands in a capsule that is well formed; nothing of it is checked yet. Raises Fault."""
    fields = _Fields(_canonical_line(content, "capsule", MOST_FILE_BYTES), "")
    fields.require_format(CAPSULE)
    events = tuple(_event(value, f"events[{index}]") for index, value in enumerate(fields.objects("events")))
    proofs = tuple(
        _inclusion(value, f"proofs[{index}]") for index, value in enumerate(fields.objects("proofs"))
    )
    head = parse_head(fields.text("checkpoint"), "checkpoint")
    keys = tuple(parse_key(text, "verifier_keys") for text in fields.texts("verifier_keys"))
    decision = fields.object_or_null("decision")
    fields.done()
    if not events:
        raise Fault("malformed", "The capsule has no event: make it again", field="events")
    return Capsule(events, proofs, head, keys, None if decision is None else _decision(decision))


def verify_range(file: BinaryIO, trust: Trust) -> Report:
    """Check an exported range in one pass and constant memory; as `range_events`. Raises Fault."""
    report = Report("range")
    count = 0
    sealed = False
    for event in range_events(file, trust, report):
        count += 1
        sealed = sealed or SEALED_PREFIX in event.data
    report.says.insert(0, f"{count} events as recorded, in their order, none left out")
    report.found["events"] = count
    if sealed:
        report.not_shown.append("what is sealed")
    return report


def range_events(file: BinaryIO, trust: Trust, report: Report) -> Iterator[EventLine]:
    """Give the events of an exported range one after another; believe none before the last was given.

    Leaves are recomputed, the tree before the range is grown by them, and the root that this gives is the
    beginning of the signed head's tree. Raises Fault, also at the very end.
    """
    header = _Fields(_canonical_line(_line(file, "the header"), "header", MOST_LINE_BYTES), "header")
    header.require_format(RANGE)
    origin = header.text("origin")
    first, last = header.number("first", least=1), header.number("last", least=1)
    peaks = [_hash(value, "header.frontier") for value in header.texts("frontier")]
    claimed = tuple(parse_key(text, "header.verifier_keys") for text in header.texts("verifier_keys"))
    header.done()
    if last < first:
        raise Fault("malformed", f"The range goes from {first} to {last}: last is before first", field="last")
    if len(peaks) != (first - 1).bit_count():
        raise Fault(
            "malformed",
            f"A tree of {first - 1} events has {(first - 1).bit_count()} peaks, the header has {len(peaks)}",
            field="header.frontier",
        )
    size = first - 1
    for expected in range(first, last + 1):
        line = _line(file, f"position {expected}", position=expected)
        if line.startswith(b'{"checkpoint":'):
            raise Fault(
                "truncation",
                f"The range ends before position {expected}, its header goes to {last}",
                position=expected,
            )
        where = f"line {expected - first + 2}"
        event, leaf = _event_line(_canonical_line(line, where, MOST_LINE_BYTES), where)
        if event.position != expected:
            raise _out_of_place(file, event.position, expected)
        _check_leaf(event, leaf, where)
        _grow(peaks, size, leaf)
        size += 1
        yield event
    line = _line(file, "the last line, with the signed head", position=last)
    if not line.startswith(b'{"checkpoint":'):
        raise Fault(
            "malformed", f"After position {last} the line with the signed head must follow", field="last"
        )
    footer = _Fields(_canonical_line(line, "last line", MOST_LINE_BYTES), "last line")
    head = parse_head(footer.text("checkpoint"), "checkpoint")
    proof = _consistency(footer.object("consistency"))
    footer.done()
    if file.read(1):
        raise Fault("malformed", "Something follows the line with the signed head: remove it")
    _check_signatures(head, claimed, trust, report, field="checkpoint")
    if head.origin != origin:
        raise Fault(
            "malformed", f"The head is of the log {head.origin}, the header of {origin}", field="origin"
        )
    if proof.first != last or proof.second != head.size:
        raise Fault(
            "malformed",
            f"The consistency proof goes from {proof.first} to {proof.second}, "
            f"needed is one from {last} to {head.size}",
            field="consistency",
        )
    check_consistency(proof, _root(peaks), head.root)
    _compare_kept_heads(head, trust, report)
    report.says.append(f"positions {first} to {last} of the {head.size} that the head signs")
    report.found.update(first=first, last=last)


def verify_inclusion(content: bytes, trust: Trust) -> Report:
    """Check that a leaf is in the tree of a head that was given. Raises Fault, Misuse."""
    proof = _inclusion(_parse(content, "proof", MOST_LINE_BYTES))
    heads = [head for head in trust.heads if head.size == proof.size]
    if not heads:
        raise Misuse(
            f"the proof speaks of a tree of {proof.size} events: give its signed head with --head FILE"
        )
    report = Report("inclusion proof")
    for head in heads:
        _check_signatures(head, None, trust, report, field="--head")
        _check_included(proof, head, "path")
        _compare_kept_heads(head, trust, report)
    report.says.append(
        f"leaf {proof.leaf.hex()} is position {proof.position} of the {proof.size} that the head signs"
    )
    report.not_shown.append("the event: a leaf is its hash (a capsule holds the event)")
    report.found.update(position=proof.position, leaf=proof.leaf.hex())
    return report


def verify_consistency(content: bytes, trust: Trust) -> Report:
    """Check that of two given heads the newer goes on from the older. Raises Fault, Misuse."""
    proof = _consistency(_parse(content, "proof", MOST_LINE_BYTES))
    for size in (proof.first, proof.second):
        if not any(head.size == size for head in trust.heads):
            raise Misuse(
                f"the proof speaks of a tree of {size} events: give its signed head with --head FILE"
            )
    report = Report("consistency proof")
    older = [head for head in trust.heads if head.size == proof.first]
    newer = [head for head in trust.heads if head.size == proof.second]
    for head in older + newer:
        _check_signatures(head, None, trust, report, field="--head")
    for one in older:
        for other in newer:
            _require_one_log(one, other)
            check_consistency(proof, one.root, other.root)
            _describe(report, other)
    report.says.append(
        f"the log of {proof.second} events goes on from that of {proof.first}: none changed or left out"
    )
    report.found.update(first=proof.first, second=proof.second)
    return report


def verify_heads(content: bytes, trust: Trust) -> Report:
    """Check a chain of signed heads, oldest first: signatures, growing sizes, and proofs where it has them.

    Heads of different origins are chains of their own: a restore begins a new one. Raises Fault.
    """
    report = Report("chain of heads")
    chain: dict[str, Head] = {}
    count, proven, unproven = 0, 0, 0
    for count, (head, proof) in enumerate(parse_chain(content), start=1):
        _check_signatures(head, None, trust, report, field=f"head {count}")
        last = chain.get(head.origin)
        if last is None:
            if proof is not None:
                raise Fault(
                    "deletion",
                    f"Head {count} goes on from a head of {proof.first} events, which is not in the file",
                    field=f"head {count}",
                )
        elif _check_next(last, head, proof, trust, f"head {count}"):
            proven += 1
        else:
            unproven += 1
        chain[head.origin] = head
        _compare_kept_heads(head, trust, report, quietly=True)
    report.says.append(f"{_counted(count, 'signed head')} of {_counted(len(chain), 'log')}, in order")
    if proven:
        report.says.append(f"{proven} proven to go on from the one before")
    if unproven:
        report.not_shown.append(
            f"that {unproven} of the heads go on from the one before: no consistency proof is given for them"
        )
    report.not_shown.append("that no newer head exists")
    report.found.update(heads=count, origins=sorted(chain), proven=proven, unproven=unproven)
    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cartrita-verify",
        description="Check a capsule, a proof, signed heads or an exported range of Cartrita's log.",
        epilog=(
            "Exit codes: 0 verified under a given key; 1 not verified, the fault is named; 2 called wrongly; "
            "3 all fits together, but no --key was given, so the key is the file's own claim. Faults: "
            + "; ".join(f"{name}: {meaning}" for name, meaning in FAULTS.items())
            + "."
        ),
    )
    parser.add_argument("file", help="a capsule, a proof, signed heads, or an exported range")
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="KEY",
        help="a verifier key that you trust (name+id+base64), or a file with one a line; may be repeated",
    )
    parser.add_argument(
        "--head",
        action="append",
        default=[],
        metavar="FILE",
        help="signed heads that you kept: a proof needs them, anything else is compared with them",
    )
    parser.add_argument(
        "--consistency",
        action="append",
        default=[],
        metavar="FILE",
        help="a consistency proof between a head that you kept and the file's",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def _trust_of(options: argparse.Namespace) -> Trust:
    keys = [key for given in options.key for key in _given("--key", given, read_keys)]
    heads = [head for name in options.head for head in _given("--head", name, _read_heads)]
    proofs = [_given("--consistency", name, _read_consistency) for name in options.consistency]
    return Trust(tuple(keys), tuple(heads), tuple(proofs))


def _given(option: str, value: str, read: Callable[[str], T]) -> T:
    try:
        return read(value)
    except Fault as fault:
        raise Misuse(f"{option} {value}: {fault.message}") from None


def _read_heads(name: str) -> list[Head]:
    return [head for head, _ in parse_chain(_read_small(name))]


def _read_consistency(name: str) -> ConsistencyProof:
    return _consistency(_parse(_read_small(name), "proof", MOST_LINE_BYTES))


def read_keys(given: str) -> list[Key]:
    """Return the key of a verifier key's text, or those of a file with one a line. Raises Fault, OSError."""
    if re.fullmatch(r"[^\s+]+\+[0-9a-fA-F]{8}\+[A-Za-z0-9+/=]+", given):
        return [parse_key(given, "--key")]
    try:
        lines = _read_small(given).decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise Fault("malformed", f"{given} is no text file of verifier keys") from None
    except FileNotFoundError:
        raise Fault(
            "malformed",
            "it is neither a verifier key (name+8 hex digits+base64) nor a file with one a line",
        ) from None
    keys = [parse_key(line.strip(), given) for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise Fault("malformed", f"{given} holds no verifier key: write one a line")
    return keys


def _read_small(name: str) -> bytes:
    with Path(name).open("rb") as file:
        return file.read(MOST_FILE_BYTES + 1)


def _say(report: Report, *, as_json: bool) -> None:
    if as_json:
        _print(json.dumps(report.as_dict()))
        return
    lines = []
    if report.trusted:
        lines.append(f"Verified: {report.kind}")
    else:
        lines.append(f"Fits together, but NOT TRUSTED: {report.kind}")
        lines.append(
            "  The key is the file's own claim. Get the installation's verifier key another way: --key KEY"
            if report.signed_by
            else "  No signature was checked. Get the installation's verifier key: --key KEY"
        )
    if report.origin:
        lines.append(f"  log {report.origin}, {report.size} events, root {report.root}")
    if report.signed_by:
        lines.append(f"  signed by {', '.join(report.signed_by)}")
    lines += [f"  {sentence}" for sentence in report.says]
    lines += [f"  not shown: {sentence}" for sentence in report.not_shown]
    _print("\n".join(_visible(line) for line in lines))


def _say_fault(fault: Fault, *, as_json: bool) -> None:
    if as_json:
        _print(json.dumps({"verified": False, "trusted": False, "fault": fault.as_dict()}))
        return
    place = f" [{fault.field}]" if fault.field else ""
    text = f"NOT VERIFIED: {fault.name} ({FAULTS[fault.name]}){place}\n  {fault.message}"
    _print("\n".join(_visible(line) for line in text.split("\n")))


def _print(text: str, stream: TextIO | None = None) -> None:
    try:
        print(text, file=stream or sys.stdout, flush=True)
    except BrokenPipeError:
        # Whoever read the output has gone; the exit code says it too. Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _visible(text: str) -> str:
    """Return text of the file without characters that would steer a terminal."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


# Events and decisions


def _event(value: Any, where: str) -> EventLine:
    fields = _Fields(value, where)
    event = _event_of(fields)
    fields.done()
    return event


def _event_line(value: Any, where: str) -> tuple[EventLine, bytes]:
    fields = _Fields(value, where)
    event = _event_of(fields)
    leaf = _hash(fields.text("leaf"), f"{where}.leaf")
    fields.done()
    return event, leaf


def _event_of(fields: "_Fields") -> EventLine:
    return EventLine(
        position=fields.number("position", least=1),
        event_id=fields.uuid("event_id"),
        stream_id=fields.uuid("stream_id"),
        version=fields.number("version", least=1),
        type=fields.text("type"),
        schema_version=fields.number("schema_version", least=1),
        recorded_at=fields.matching("recorded_at", _TIME, "a time such as 2026-01-31T09:00:00.000000Z"),
        workspace_id=fields.uuid("workspace_id"),
        session_id=fields.uuid_or_null("session_id"),
        causation_id=fields.uuid_or_null("causation_id"),
        actor=fields.text("actor"),
        trace_id=fields.text("trace_id"),
        key_id=fields.uuid_or_null("key_id"),
        data=fields.text("data"),
    )


def _check_leaf(event: EventLine, leaf: bytes, where: str) -> None:
    if event.leaf() != leaf:
        raise Fault(
            "edit",
            f"The event of position {event.position} ({event.type}) is not the one that its leaf hash is of",
            field=where,
            position=event.position,
        )


def _check_pairs(events: Sequence[EventLine], proofs: Sequence[InclusionProof]) -> None:
    """Check that each event has its proof, both in the order of the log."""
    of_events = [event.position for event in events]
    of_proofs = [proof.position for proof in proofs]
    if of_events != of_proofs and sorted(of_events) != sorted(of_proofs):
        alone = sorted(set(of_events) ^ set(of_proofs))
        raise Fault(
            "deletion",
            "Events and proofs must be pairs; alone "
            f"{'is' if len(alone) == 1 else 'are'} position {', '.join(map(str, alone))}"
            if alone
            else "Events and proofs must be pairs; some stand there more than once",
            field="proofs",
            position=alone[0] if alone else None,
        )
    for positions, name in ((of_events, "events"), (of_proofs, "proofs")):
        for before, position in pairwise(positions):
            if position <= before:
                raise Fault(
                    "reordering",
                    f"Position {position} stands after {before}: they must be in the order of the log",
                    field=name,
                    position=position,
                )


def _decision(value: Mapping[str, Any]) -> Decision:
    fields = _Fields(value, "decision")
    event_id = fields.uuid("event_id")
    policy_hash = _hash(fields.text("policy_hash"), "decision.policy_hash").hex()
    policy_text = fields.text("policy_text")
    not_visible = tuple(fields.texts("not_visible"))
    blobs: dict[str, bytes] = {}
    before = ""
    for index, blob in enumerate(fields.objects("blobs")):
        where = f"decision.blobs[{index}]"
        of_blob = _Fields(blob, where)
        digest = _hash(of_blob.text("sha256"), f"{where}.sha256").hex()
        blobs[digest] = _base64(of_blob.text("content"), f"{where}.content")
        of_blob.done()
        if digest <= before:
            raise Fault("reordering", "Blobs stand in the order of their hashes", field=where)
        before = digest
    fields.done()
    return Decision(event_id, policy_hash, policy_text, not_visible, blobs)


def _check_decision(decision: Decision, events: Sequence[EventLine], report: Report) -> None:
    event_id = decision.event_id
    made = next((event for event in events if event.event_id == event_id), None)
    if made is None:
        raise Fault(
            "deletion", f"The decision's event {event_id} is not in the capsule", field="decision.event_id"
        )
    if made.type != DECISION_MADE:
        raise Fault(
            "malformed", f"The event {event_id} is no decision but {made.type}", field="decision.event_id"
        )
    own = [event for event in events if event.stream_id == made.stream_id]
    for version, event in enumerate(own, start=1):
        if event.version != version:
            raise Fault(
                "deletion",
                f"Event {version} of the decision is missing: the capsule goes on with {event.version}",
                field="events",
                position=event.position,
            )
    data = made.values()
    if data.get("policy_hash") != decision.policy_hash:
        raise Fault(
            "edit",
            "The decision was made under another policy than the capsule says",
            field="decision.policy_hash",
            position=made.position,
        )
    if hashlib.sha256(decision.policy_text.encode()).hexdigest() != decision.policy_hash:
        raise Fault(
            "edit", "The policy's text is not the one that the decision names", field="decision.policy_text"
        )
    sealed = [f"{event.type}.{name}" for event in own for name in event.sealed()]
    if list(decision.not_visible) != sealed:
        raise Fault(
            "edit",
            f"Sealed are {', '.join(sealed) or 'no fields'}; named are {', '.join(decision.not_visible)}",
            field="decision.not_visible",
        )
    for digest, content in decision.blobs.items():
        if hashlib.sha256(content).hexdigest() != digest:
            raise Fault("edit", f"The blob {digest} is not the one of its hash", field="decision.blobs")
    _report_decision(data, own, report)
    if decision.blobs:
        report.not_shown.append(
            f"that the sealed request names the capsule's {_counted(len(decision.blobs), 'blob')}"
        )


def _report_decision(data: Mapping[str, Any], own: Sequence[EventLine], report: Report) -> None:
    names = ("outcome", "rule", "reason", "subject_kind", "actor", "agent", "tool", "model", "at")
    decision: dict[str, Any] = {name: data.get(name) for name in names}
    for name in ("matched", "not_matched", "erred"):
        rules = data.get(name)
        decision[name] = rules if isinstance(rules, list) else []
    decision["policy_hash"] = data.get("policy_hash")
    decision["settled"] = None
    for event in own[1:]:
        if event.type == "governance.ActSettled":
            decision["settled"] = event.values().get("outcome")
    decision["re_evaluated"] = False
    report.found["decision"] = decision
    report.says.append(
        f"decided: {decision['outcome']} by {decision['rule']} ({_counted(len(decision['matched']), 'rule')} "
        f"matched, {len(decision['not_matched'])} did not, {len(decision['erred'])} erred)"
    )
    report.says.append(f"the policy's text is the one that the decision names ({decision['policy_hash']})")
    report.says.append(f"the act: {decision['settled'] or 'no outcome is in the capsule'}")
    report.not_shown.append(
        "that the policy gives this verdict: not re-evaluated (`manage.py capsule --redecide FILE` does it, "
        "where the keys are)"
    )


# Trees (RFC 9162, section 2.1; the hashes are those of RFC 6962)


def _inclusion(value: Any, where: str = "proof") -> InclusionProof:
    fields = _Fields(value, where)
    fields.require_format(INCLUSION)
    proof = InclusionProof(
        fields.number("position", least=1),
        _hash(fields.text("leaf"), f"{where}.leaf"),
        fields.number("size", least=1),
        _path(fields),
    )
    fields.done()
    return proof


def _consistency(value: Any) -> ConsistencyProof:
    fields = _Fields(value, "proof")
    fields.require_format(CONSISTENCY)
    proof = ConsistencyProof(fields.number("first", least=1), fields.number("second", least=1), _path(fields))
    fields.done()
    if proof.second < proof.first:
        raise Fault(
            "malformed", f"A tree of {proof.second} cannot begin with one of {proof.first}", field="second"
        )
    return proof


def _path(fields: "_Fields") -> tuple[bytes, ...]:
    path = tuple(_hash(value, "proof.path") for value in fields.texts("path"))
    if len(path) > MOST_PATH:
        raise Fault("malformed", f"A path has at most {MOST_PATH} hashes, this one {len(path)}", field="path")
    return path


def _check_included(proof: InclusionProof, head: Head, where: str) -> None:
    if proof.size != head.size:
        raise Fault(
            "malformed",
            f"The proof is for a tree of {proof.size} events, the signed head has {head.size}",
            field=where,
            position=proof.position,
        )
    if proof.position > proof.size:
        raise Fault(
            "truncation",
            f"Position {proof.position} is beyond the {proof.size} that the head signs",
            field=where,
            position=proof.position,
        )
    if root_of_inclusion(proof.position - 1, proof.size, proof.leaf, proof.path) != head.root:
        raise Fault(
            "fork",
            f"Position {proof.position} does not lead to the signed root: event and leaf, or the proof, were "
            "changed, or they are of another history",
            field=where,
            position=proof.position,
        )


def root_of_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes | None:
    """Return the root that an audit path leads to, None where its length is not that of such a leaf's."""
    at, last, found = index, size - 1, leaf
    for node in path:
        if last == 0:
            return None
        if at & 1 or at == last:
            found = _node(node, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = _node(found, node)
        at, last = at >> 1, last >> 1
    return found if last == 0 else None


def check_consistency(proof: ConsistencyProof, first_root: bytes, second_root: bytes) -> None:
    """Check that the tree of the first root is the beginning of the second's. Raises Fault."""
    if not _continues(proof, first_root, second_root):
        raise Fault(
            "fork",
            f"The log of {proof.second} events does not go on from that of {proof.first}: events before that "
            "were changed, or the two are of different histories",
            field="consistency",
        )


def _continues(proof: ConsistencyProof, first_root: bytes, second_root: bytes) -> bool:
    if proof.first == proof.second:
        return not proof.path and first_root == second_root
    path = list(proof.path)
    if proof.first.bit_count() == 1:
        path.insert(0, first_root)
    if not path:
        return False
    at, last = proof.first - 1, proof.second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = _node(node, old), _node(node, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = _node(new, node)
        at, last = at >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def _grow(peaks: list[bytes], size: int, leaf: bytes) -> None:
    while size & 1:
        leaf = _node(peaks.pop(), leaf)
        size >>= 1
    peaks.append(leaf)


def _root(peaks: Sequence[bytes]) -> bytes:
    *rest, root = peaks
    for peak in reversed(rest):
        root = _node(peak, root)
    return root


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _out_of_place(file: BinaryIO, found: int, expected: int) -> Fault:
    """Tell a line that was moved from one that is gone: the former stands somewhere else."""
    if found < expected:
        return Fault(
            "reordering",
            f"Position {found} stands where {expected} belongs",
            position=expected,
            field="position",
        )
    wanted = b',"position":%d,' % expected
    while line := file.readline(MOST_LINE_BYTES):
        if wanted in line:
            return Fault(
                "reordering",
                f"Position {found} stands where {expected} belongs, which comes later",
                position=expected,
                field="position",
            )
    return Fault(
        "deletion",
        f"Position {expected} is missing: the range goes on with {found}",
        position=expected,
        field="position",
    )


# Signed heads (C2SP tlog-checkpoint in C2SP signed-note)


def parse_key(text: str, where: str) -> Key:
    """Return the key of a verifier key's text. Raises Fault."""
    parts = text.split("+", 2)
    if len(parts) != 3 or not _is_key_name(parts[0]) or not re.fullmatch(r"[0-9a-f]{8}", parts[1]):
        raise Fault(
            "malformed",
            "A verifier key is written name+8 lower-case hex digits+base64: copy it whole",
            field=where,
        )
    encoded = _base64(parts[2], where)
    if len(encoded) != 1 + HASH_BYTES or encoded[0] != ED25519:
        raise Fault("malformed", "The verifier key is no Ed25519 key: copy it whole", field=where)
    key_id = hashlib.sha256(parts[0].encode() + b"\n" + encoded).digest()[:4]
    if key_id.hex() != parts[1]:
        raise Fault(
            "malformed", "The verifier key's id is not that of its name and key: copy it whole", field=where
        )
    return Key(parts[0], key_id, encoded[1:], text)


def parse_head(note: str, where: str) -> Head:
    """Return the signed head of one note, without looking at its signatures. Raises Fault."""
    if any((ord(c) < 0x20 and c != "\n") or c == "\x7f" for c in note):
        raise Fault(
            "malformed", "A signed note holds no control characters: take it as it was written", field=where
        )
    text, separator, signatures = note.partition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise Fault(
            "truncation" if not note.endswith("\n") else "malformed",
            "A signed note is a text, an empty line and ended lines of signatures: take it as it was written",
            field=where,
        )
    lines = text.split("\n")
    if len(lines) < 3 or not all(lines):
        raise Fault("malformed", "A checkpoint has the lines origin, size and root", field=where)
    origin, size, root = lines[:3]
    if not re.fullmatch(r"0|[1-9][0-9]{0,15}", size) or int(size) > LARGEST_NUMBER:
        raise Fault("malformed", "The checkpoint's second line is its size, a decimal number", field=where)
    root_hash = _base64(root, where)
    if len(root_hash) != HASH_BYTES:
        raise Fault("malformed", f"The checkpoint's third line is a root of {HASH_BYTES} bytes", field=where)
    parsed = tuple(_signature(line, where) for line in signatures[:-1].split("\n"))
    return Head(origin, int(size), root_hash, (text + "\n").encode(), parsed, note)


def parse_chain(content: bytes) -> Iterator[tuple[Head, ConsistencyProof | None]]:
    """Give the heads of a witness file, each with its proof that it goes on from the one before.

    A block is a note, the proof as a line of JSON, and two empty lines; one note alone will do. Raises Fault.
    """
    if len(content) > MOST_FILE_BYTES:
        raise Fault("malformed", f"The file is above {MOST_FILE_BYTES} bytes: split it")
    lines = _text(content, "file").split("\n")
    if lines.pop():
        raise Fault("truncation", "The last line of the heads is not ended")
    number, at, ended = 0, 0, False
    while at < len(lines):
        number += 1
        start = at
        while at < len(lines) and lines[at]:
            at += 1
        at += 1
        while at < len(lines) and lines[at].startswith(_SIGNATURE_START):
            at += 1
        head = parse_head("".join(f"{line}\n" for line in lines[start:at]), f"head {number}")
        proof = None
        if at < len(lines) and lines[at].startswith("{"):
            proof = _consistency(_parse(lines[at].encode(), f"head {number}", MOST_LINE_BYTES))
            at += 1
        after = at
        while at < len(lines) and not lines[at]:
            at += 1
        if ended and at - after < 2:
            raise Fault("truncation", f"Head {number} was cut off: two empty lines must follow it")
        ended = at - after >= 2
        yield head, proof
    if number == 0:
        raise Fault("malformed", "The file holds no signed head, and is no capsule, proof or range either")


_SIGNATURE_START = "\u2014 "


def _signature(line: str, where: str) -> tuple[str, bytes, bytes]:
    words = line.split(" ")
    if len(words) != 3 or words[0] != _SIGNATURE_START.strip() or not _is_key_name(words[1]):
        raise Fault("malformed", "A line of a signature is \u2014, a key's name and base64", field=where)
    signature = _base64(words[2], where)
    # Those of witnesses may be of other kinds, and longer than Ed25519's 64 bytes.
    if len(signature) <= 4:
        raise Fault("malformed", "A signature is longer than the 4 bytes of its key's id", field=where)
    return words[1], signature[:4], signature[4:]


def _is_key_name(name: str) -> bool:
    return bool(name) and name.isprintable() and not any(c.isspace() or c == "+" for c in name)


def _check_signatures(
    head: Head, claimed: Sequence[Key] | None, trust: Trust, report: Report, *, field: str
) -> None:
    """Check the signatures of a head; one must be by a trusted key. Writes into the report.

    A file that names its keys (`claimed`) must name all that signed, so that no byte of it goes unchecked.
    """
    known = (*trust.keys, *(claimed or ()))
    by: list[Key] = []
    unknown: list[str] = []
    for name, key_id, signature in head.signatures:
        keys = [key for key in known if key.name == name and key.key_id == key_id]
        for key in keys:
            try:
                Ed25519PublicKey.from_public_bytes(key.public).verify(signature, head.signed)
            except (InvalidSignature, ValueError):
                raise Fault(
                    "signature",
                    f"The signature by {name} is not of this head of {head.size} events: one was changed",
                    field=field,
                ) from None
        by += keys
        if not keys:
            unknown.append(f"{name}+{key_id.hex()}")
    trusted = [key for key in by if key in trust.keys]
    if trust.keys and not trusted:
        signers = ", ".join(unknown + [f"{key.name}+{key.key_id.hex()}" for key in by])
        raise Fault(
            "foreign_key",
            f"Signed by {signers}, none of the keys that were given: if the installation changed its key, "
            "give the former one too",
            field=field,
        )
    if unknown and claimed is not None:
        raise Fault(
            "foreign_key",
            f"The signature by {', '.join(unknown)} cannot be checked: the file does not name its key",
            field=field,
        )
    for label in unknown:
        if (
            trust.keys
            and (sentence := f"the signature by {label}: its key was not given") not in report.not_shown
        ):
            report.not_shown.append(sentence)
    if len({(name, key_id) for name, key_id, _ in head.signatures}) != len(head.signatures):
        raise Fault("malformed", "A key signed the head twice: take it as it was written", field=field)
    report.trusted = bool(trust.keys)
    for key in trusted or by:
        label = f"{key.name}+{key.key_id.hex()}"
        if label not in report.signed_by:
            report.signed_by.append(label)
    _describe(report, head)


def _describe(report: Report, head: Head) -> None:
    report.origin, report.size, report.root = head.origin, head.size, head.root.hex()


def _check_next(last: Head, head: Head, proof: ConsistencyProof | None, trust: Trust, where: str) -> bool:
    """Check that a head may follow another of its log; return whether that is proven."""
    if head.size < last.size:
        raise Fault(
            "reordering",
            f"It has {head.size} events, the one before {last.size}: heads stand oldest first, and no log "
            "shrinks",
            field=where,
        )
    if head.size == last.size:
        _require_same(last, head, where)
        return True
    if proof is not None and (proof.first, proof.second) != (last.size, head.size):
        raise Fault(
            "deletion",
            f"Its proof goes from {proof.first} to {proof.second} events, and the head before it has "
            f"{last.size}: one is missing",
            field=where,
        )
    for one in (proof, *trust.consistency):
        if one is not None and (one.first, one.second) == (last.size, head.size):
            check_consistency(one, last.root, head.root)
            return True
    return last.size == 0


def _compare_kept_heads(head: Head, trust: Trust, report: Report, *, quietly: bool = False) -> None:
    """Compare a head with those that the user kept, as far as their sizes or a proof allow."""
    for kept in trust.heads:
        if kept is head or kept.origin != head.origin:
            continue
        _check_signatures(kept, None, trust, Report(""), field="--head")
        if kept.size == head.size:
            _require_same(kept, head, "--head")
            if not quietly and kept.note != head.note:
                report.says.append(f"the kept head of {kept.size} events has the same root")
            continue
        older, newer = sorted((kept, head), key=lambda one: one.size)
        for proof in trust.consistency:
            if (proof.first, proof.second) == (older.size, newer.size):
                check_consistency(proof, older.root, newer.root)
                report.says.append(f"the kept head of {kept.size} events is of the same history")
                break
        else:
            if not quietly and older.size:
                report.not_shown.append(
                    f"that the kept head of {kept.size} events is of the same history: give --consistency "
                    f"FILE from {older.size} to {newer.size}"
                )


def _require_same(one: Head, other: Head, where: str) -> None:
    if one.root != other.root:
        raise Fault(
            "fork",
            f"Two signed heads of {one.size} events have different roots: the history was forked",
            field=where,
        )


def _require_one_log(one: Head, other: Head) -> None:
    if one.origin != other.origin:
        raise Fault(
            "malformed", f"The heads are of different logs: {one.origin} and {other.origin}", field="--head"
        )


# Strict reading


class _Fields:
    """The members of a JSON object, each taken once; `done` refuses what was not asked for."""

    def __init__(self, value: Any, where: str) -> None:
        self._where = where
        if not isinstance(value, dict):
            raise Fault("malformed", f"{where or 'The file'} must be a JSON object", field=where)
        self._left = dict(value)

    def require_format(self, name: str) -> None:
        found = self.text("format")
        if found != name:
            self._refuse("format", f"is {found!r}, not {name!r}")

    def text(self, name: str) -> str:
        value = self._take(name)
        if not isinstance(value, str):
            self._refuse(name, "must be a text")
        return value

    def number(self, name: str, *, least: int) -> int:
        value = self._take(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            self._refuse(name, f"must be a whole number from {least}")
        return value

    def matching(self, name: str, pattern: re.Pattern[str], what: str) -> str:
        value = self.text(name)
        if not pattern.fullmatch(value):
            self._refuse(name, f"must be {what}")
        return value

    def uuid(self, name: str) -> str:
        return self.matching(name, _UUID, "a lower-case UUID")

    def uuid_or_null(self, name: str) -> str | None:
        if self._left.get(name, "") is None:
            del self._left[name]
            return None
        return self.uuid(name)

    def object(self, name: str) -> dict[str, Any]:
        value = self._take(name)
        if not isinstance(value, dict):
            self._refuse(name, "must be a JSON object")
        return value

    def object_or_null(self, name: str) -> dict[str, Any] | None:
        if self._left.get(name, "") is None:
            del self._left[name]
            return None
        return self.object(name)

    def objects(self, name: str) -> list[dict[str, Any]]:
        return [value for value in self._list(name, dict, "objects") if isinstance(value, dict)]

    def texts(self, name: str) -> list[str]:
        return [value for value in self._list(name, str, "texts") if isinstance(value, str)]

    def done(self) -> None:
        for name in self._left:
            self._refuse(name, "is unknown: remove it, or take the verifier that belongs to the file")

    def _list(self, name: str, kind: type, what: str) -> list[Any]:
        value = self._take(name)
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            self._refuse(name, f"must be a list of {what}")
        if len(value) > MOST_ITEMS:
            self._refuse(name, f"has more than {MOST_ITEMS} items")
        return value

    def _take(self, name: str) -> Any:
        if name not in self._left:
            self._refuse(name, "is missing: take the file as it was written")
        return self._left.pop(name)

    def _refuse(self, name: str, problem: str) -> NoReturn:
        place = f"{self._where}.{name}" if self._where else name
        raise Fault("malformed", f"'{place}' {problem}", field=place)


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


def _format_of(content: bytes) -> str:
    value = _parse(content, "file", MOST_FILE_BYTES)
    name = value.get("format") if isinstance(value, dict) else None
    known = (CAPSULE, RANGE, INCLUSION, CONSISTENCY)
    if name not in known:
        shown = f"{name!r}" if name is None or isinstance(name, str) else "no text"
        raise Fault(
            "malformed", f"The file's 'format' is {shown}, known are {', '.join(known)}", field="format"
        )
    return str(name)


def _line(file: BinaryIO, what: str, *, position: int | None = None) -> bytes:
    line = file.readline(MOST_LINE_BYTES + 1)
    if len(line) > MOST_LINE_BYTES:
        raise Fault("malformed", f"The line of {what} is above {MOST_LINE_BYTES} bytes", position=position)
    if not line.endswith(b"\n"):
        raise Fault("truncation", f"The file ends before {what} is complete", position=position)
    return line


def _canonical_line(content: bytes, where: str, most: int) -> Any:
    """Return the JSON of one ended line that is in canonical form: sorted keys, no spaces (RFC 8785)."""
    if not content.endswith(b"\n"):
        raise Fault("truncation", "The file does not end with its last line: it was cut off", field=where)
    value = _parse(content, where, most)
    if _written(value) + b"\n" != content:
        raise Fault(
            "malformed",
            "The JSON is not in its canonical form (sorted keys, no spaces): take the file as it was written",
            field=where,
        )
    return value


def _parse(content: bytes, where: str, most: int) -> Any:
    if len(content) > most:
        raise Fault("malformed", f"It is above {most} bytes: that is no file of ours", field=where)
    return _strict_json(_text(content, where), where)


def _strict_json(text: str, where: str, *, decoder: json.JSONDecoder | None = None) -> Any:
    try:
        return (decoder or _WHOLE_NUMBERS).decode(text)
    except json.JSONDecodeError as error:
        raise Fault(
            "malformed", f"It is no JSON: {error.msg} at character {error.pos + 1}", field=where
        ) from None
    except RecursionError:
        raise Fault("malformed", "The JSON is nested too deeply", field=where) from None
    except Fault as fault:
        raise Fault("malformed", fault.message, field=where) from None


def _whole(digits: str) -> int:
    if len(digits) > 17 or abs(int(digits)) > LARGEST_NUMBER:
        raise Fault("malformed", "A number is beyond 2^53 - 1")
    return int(digits)


def _large(digits: str) -> int:
    # RFC 8785 writes floats below 1e21 without a point.
    if len(digits) > 22:
        raise Fault("malformed", "A number is beyond 1e21")
    return int(digits)


def _no_fraction(_digits: str) -> NoReturn:
    raise Fault("malformed", "A number is not whole")


def _no_constant(name: str) -> NoReturn:
    raise Fault("malformed", f"{name} is no number of JSON")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Fault("malformed", f"'{twice}' stands twice in one object")
    return value


# Made once: a range has a line for each of its events.
_WHOLE_NUMBERS = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_whole, parse_float=_no_fraction, parse_constant=_no_constant
)
# The data of an event may hold any number.
_ALL_NUMBERS = json.JSONDecoder(object_pairs_hook=_members, parse_int=_large, parse_constant=_no_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _written(value: Any) -> bytes:
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError:
        raise Fault("malformed", "A text holds half of a character (a lone surrogate)") from None
    except RecursionError:
        raise Fault("malformed", "The JSON is nested too deeply") from None


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Fault("malformed", f"Byte {error.start + 1} is no UTF-8", field=where) from None


def _hash(text: str, where: str) -> bytes:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise Fault("malformed", "A hash has 64 lower-case hexadecimal digits", field=where)
    return bytes.fromhex(text)


def _base64(text: str, where: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        content = None
    if content is None or base64.b64encode(content).decode() != text:
        raise Fault("malformed", "The base64 is not as it is written: copy it whole", field=where)
    return content


if __name__ == "__main__":
    sys.exit(main())
