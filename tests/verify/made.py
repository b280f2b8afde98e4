"""Logs, heads, capsules and ranges made by the tests themselves to the formats of docs/verify.md."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import pairwise
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ORIGIN = "cartrita/01936f3e-0000-7000-8000-0000000000aa/1"
# The 32 bytes of another signing key, as CARTRITA_SIGNING_KEY takes them.
OTHER_KEY = base64.b64encode(b"\x02" * 32).decode()
POLICY = '{"environment":2,"policy":"small","rules":[]}'
POLICY_HASH = sha256(POLICY.encode()).hexdigest()


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


@dataclass(frozen=True)
class Signer:
    """A key that signs heads, always the same for a name."""

    name: str = ORIGIN.rsplit("/", 1)[0]
    seed: bytes = b"one"

    @property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(sha256(self.seed).digest())

    @property
    def _typed(self) -> bytes:
        return b"\x01" + self._private.public_key().public_bytes_raw()

    @property
    def _id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + self._typed).digest()[:4]

    @property
    def verifier_key(self) -> str:
        return f"{self.name}+{self._id.hex()}+{base64.b64encode(self._typed).decode()}"

    def line(self, text: str) -> str:
        signature = base64.b64encode(self._id + self._private.sign(text.encode())).decode()
        return f"\u2014 {self.name} {signature}\n"

    def sign(self, text: str) -> str:
        return f"{text}\n{self.line(text)}"


def uuid(number: int) -> str:
    return f"01936f3e-0000-7000-8000-{number:012x}"


def event(position: int, **changed: Any) -> dict[str, Any]:
    """An event's members as they stand in files."""
    return {
        "position": position,
        "event_id": uuid(1000 + position),
        "stream_id": uuid(2000 + position),
        "version": 1,
        "type": "tests.Happened",
        "schema_version": 1,
        "recorded_at": f"2026-01-31T09:00:00.{position:06d}Z",
        "workspace_id": uuid(1),
        "session_id": uuid(2),
        "causation_id": None,
        "actor": "user:Zoë\t\u2028\x7f",
        "trace_id": "",
        "key_id": uuid(3),
        "data": json.dumps({"number": position, "text": "sealed:1:AAAA"}, separators=(",", ":")),
    } | changed


def decision(position: int, stream: int = 7) -> dict[str, Any]:
    data = {
        "erred": [],
        "matched": ["reads-are-fine"],
        "not_matched": ["mail-needs-a-human"],
        "outcome": "allow",
        "policy_hash": POLICY_HASH,
        "reason": "Reading is fine.",
        "request": "sealed:1:AAAA:json",
        "request_hash": "sealed:1:BBBB",
        "rule": "reads-are-fine",
    }
    return event(
        position,
        stream_id=uuid(stream),
        type="governance.DecisionMade",
        data=json.dumps(data, separators=(",", ":")),
    )


def settled(position: int, stream: int = 7, version: int = 2) -> dict[str, Any]:
    return event(
        position,
        stream_id=uuid(stream),
        version=version,
        type="governance.ActSettled",
        data='{"cost_micros":0,"currency":"USD","outcome":"succeeded","tokens":0}',
    )


def leaf(one: dict[str, Any]) -> bytes:
    fields = [value for name, value in one.items() if name not in {"position", "data"}]
    head = canonical(["cartrita.leaf.v1", *fields])[:-2]
    return sha256(b"\x00" + head + b"," + one["data"].encode() + b"]").digest()


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def split(size: int) -> int:
    return 1 << (size - 1).bit_length() - 1


def root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1."""
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return node(root(leaves[:k]), root(leaves[k:]))


def path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*path(index, leaves[:k]), root(leaves[k:])]
    return [*path(index - k, leaves[k:]), root(leaves[:k])]


def subproof(first: int, leaves: Sequence[bytes], *, whole: bool = True) -> list[bytes]:
    """SUBPROOF of RFC 6962, section 2.1.2."""
    if first == len(leaves):
        return [] if whole else [root(leaves)]
    k = split(len(leaves))
    if first <= k:
        return [*subproof(first, leaves[:k], whole=whole), root(leaves[k:])]
    return [*subproof(first - k, leaves[k:], whole=False), root(leaves[:k])]


def frontier(leaves: Sequence[bytes]) -> list[bytes]:
    found, start = [], 0
    while start < len(leaves):
        size = 1 << (len(leaves) - start).bit_length() - 1
        found.append(root(leaves[start : start + size]))
        start += size
    return found


@dataclass(frozen=True)
class Made:
    """A log of events, and what is given out of it."""

    events: tuple[dict[str, Any], ...]
    signer: Signer = field(default_factory=Signer)
    origin: str = ORIGIN

    @classmethod
    def of(cls, count: int) -> "Made":
        """A log with a decision at position 3 that is settled at position 5."""
        special = {3: decision(3), 5: settled(5)}
        return cls(tuple(special.get(position) or event(position) for position in range(1, count + 1)))

    @property
    def leaves(self) -> list[bytes]:
        return [leaf(one) for one in self.events]

    def with_event(self, position: int, **changed: Any) -> "Made":
        events = list(self.events)
        events[position - 1] = events[position - 1] | changed
        return replace(self, events=tuple(events))

    def text(self, size: int | None = None) -> str:
        size = size or len(self.events)
        digest = base64.b64encode(root(self.leaves[:size])).decode()
        return f"{self.origin}\n{size}\n{digest}\n"

    def head(self, size: int | None = None) -> str:
        return self.signer.sign(self.text(size))

    def inclusion(self, position: int, size: int | None = None) -> dict[str, Any]:
        size = size or len(self.events)
        return {
            "format": "cartrita.inclusion.v1",
            "position": position,
            "leaf": self.leaves[position - 1].hex(),
            "size": size,
            "path": [each.hex() for each in path(position - 1, self.leaves[:size])],
        }

    def consistency(self, first: int, second: int | None = None) -> dict[str, Any]:
        second = second or len(self.events)
        return {
            "format": "cartrita.consistency.v1",
            "first": first,
            "second": second,
            "path": [each.hex() for each in subproof(first, self.leaves[:second])],
        }

    def witness(self, *sizes: int) -> str:
        """A witness file of the heads of these sizes, each with the proof that it goes on from the last."""
        proofs = ["", *(canonical(self.consistency(*pair)).decode() for pair in pairwise(sizes))]
        return "".join(f"{self.head(size)}{proof}\n\n" for size, proof in zip(sizes, proofs, strict=True))

    def capsule(self, *positions: int, **changed: Any) -> dict[str, Any]:
        return {
            "format": "cartrita.capsule.v1",
            "events": [self.events[position - 1] for position in positions],
            "proofs": [self.inclusion(position) for position in positions],
            "checkpoint": self.head(),
            "verifier_keys": [self.signer.verifier_key],
            "decision": None,
        } | changed

    def decision_capsule(self, **changed: Any) -> dict[str, Any]:
        blob = b"what the request names"
        decided = {
            "event_id": self.events[2]["event_id"],
            "policy_hash": POLICY_HASH,
            "policy_text": POLICY,
            "not_visible": [
                "governance.DecisionMade.request",
                "governance.DecisionMade.request_hash",
            ],
            "blobs": [{"sha256": sha256(blob).hexdigest(), "content": base64.b64encode(blob).decode()}],
        }
        return self.capsule(3, 5, decision=decided | changed)

    def range(self, first: int, last: int, size: int | None = None) -> list[dict[str, Any]]:
        """The lines of an exported range."""
        size = size or len(self.events)
        return [
            {
                "format": "cartrita.range.v1",
                "origin": self.origin,
                "first": first,
                "last": last,
                "frontier": [each.hex() for each in frontier(self.leaves[: first - 1])],
                "verifier_keys": [self.signer.verifier_key],
            },
            *(one | {"leaf": leaf(one).hex()} for one in self.events[first - 1 : last]),
            {"checkpoint": self.head(size), "consistency": self.consistency(last, size)},
        ]


def lines(values: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(canonical(value) for value in values)
