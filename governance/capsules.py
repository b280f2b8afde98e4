"""Capsules of decisions: what was decided, on what, by which policy, and how it ended."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from cartrita import verify
from cartrita.errors import CartritaError, NotFound
from cartrita.eventstore import RecordedEvent, get_blob, sealing
from cartrita.eventstore.blobs import UnknownBlob
from cartrita.eventstore.exports import (
    decoded,
    make_capsule,
    sealed_blob,
    signed_positions_of,
    trusted,
    verifying,
)
from cartrita.eventstore.heads import HeadMissing
from governance import decision
from governance.decide import Verdict
from governance.decision import DecisionMade, NotRedecidable, request_of, verdict_of
from governance.policy import load_policy
from governance.queries.decisions import UnknownDecision, decision_made, in_order
from governance.rulebook import UnknownPolicy


class NoDecision(NotFound):
    """The capsule is of events alone: there is nothing to decide again."""

    code: ClassVar[str] = "no_decision"


@dataclass(frozen=True, slots=True)
class DecidedAgain:
    """A capsule's decision as it was recorded, and as the policy in the capsule decides it now."""

    decision_id: UUID
    recorded: Verdict
    now: Verdict
    report: verify.Report

    @property
    def same(self) -> bool:
        return in_order(self.recorded) == in_order(self.now)


@dataclass(frozen=True, slots=True)
class DecisionProof:
    """What verifying a decision's capsule under this installation's keys came to, now.

    `problem` says why it is not proven, and is empty where it is; `beyond` tells that only the next signed
    head is missing.
    """

    report: verify.Report | None
    problem: str = ""
    beyond: bool = False


def is_decision(stream_id: UUID) -> bool:
    """Tell whether a stream is a decision's."""
    try:
        decision_made(stream_id)
    except UnknownDecision:
        return False
    return True


def decision_capsule(decision_id: UUID, *, with_blobs: bool = True) -> bytes:
    """Return the capsule of a decision: its events, its policy's text, and the blobs that its input names.

    Sealed fields stay ciphertext, and so do blobs. Where the input is erased the blobs cannot be told, and
    are left out. Raises UnknownDecision, UnknownPolicy, HeadMissing, and what `make_capsule` raises.
    """
    recorded = decision_made(decision_id)
    made = _made(recorded)
    positions = signed_positions_of(decision_id)
    if not positions:
        raise HeadMissing(
            f"The decision {decision_id} is beyond the newest signed head: try again in a moment.",
            field="decision_id",
        )
    decided = {
        "event_id": str(recorded.event_id),
        "policy_hash": made.policy_hash,
        "policy_text": _policy_text(made.policy_hash),
        "blobs": _blobs(recorded) if with_blobs else [],
    }
    return make_capsule(positions, decision=decided)


def prove_decision(decision_id: UUID) -> DecisionProof:
    """Verify a decision as whoever gets its capsule does: its events, its policy, up to the newest head.

    Raises UnknownDecision.
    """
    try:
        content = decision_capsule(decision_id, with_blobs=False)
        with verifying():
            return DecisionProof(verify.verify_capsule(content, verify.Trust(trusted())))
    except UnknownDecision:
        raise
    except HeadMissing as error:
        return DecisionProof(None, error.message, beyond=True)
    except CartritaError as error:
        return DecisionProof(None, error.message)


def redecide_capsule(content: bytes, keys: Sequence[str] = ()) -> DecidedAgain:
    """Verify a capsule of a decision, then decide it again by what is in it alone.

    Under the given verifier keys, this installation's without; the input is opened by the key that stands
    here. Raises NotVerified, NoDecision, NotRedecidable (the key is erased or another installation's, or a
    blob is not in the capsule), PolicyNotValid.
    """
    with verifying():
        report = verify.verify_capsule(content, verify.Trust(trusted(keys)))
        capsule = verify.read_capsule(content)
    decided = capsule.decision
    if decided is None:
        raise NoDecision("The capsule holds no decision: make one with `manage.py capsule DECISION_ID`")
    (line,) = [event for event in capsule.events if event.event_id == decided.event_id]
    recorded = decoded(line)
    made = _made(recorded)
    key_id = recorded.key_id
    cipher = sealing.ciphers([key_id]).get(key_id) if key_id else None
    if recorded.erased or cipher is None:
        raise NotRedecidable(
            "The input is sealed under a key that does not stand here: it is erased, or another "
            "installation's. Such a decision is no difference; it cannot be decided again here."
        )

    def read_blob(sha256: str) -> bytes:
        if sha256 not in decided.blobs:
            raise NotRedecidable(
                f"The input names the blob {sha256}, which is not in the capsule: it was made without blobs."
            )
        return cipher.unseal_blob(decided.blobs[sha256])

    policy = load_policy(decided.policy_text, made.policy_hash)
    now = decision.redecide(made, policy, read_blob)
    return DecidedAgain(recorded.stream_id, verdict_of(made), now, report)


def _made(recorded: RecordedEvent) -> DecisionMade:
    if not isinstance(recorded.event, DecisionMade):
        raise UnknownDecision(f"Event {recorded.event_id} is no decision.", field="decision_id")
    return recorded.event


def _policy_text(policy_hash: str) -> str:
    try:
        return get_blob(policy_hash).decode()
    except UnknownBlob:
        raise UnknownPolicy(
            f"No policy with the hash {policy_hash} is stored: the capsule would lack what decided.",
            field="policy_hash",
        ) from None


def _blobs(recorded: RecordedEvent) -> list[dict[str, str]]:
    """Return the blobs that a decision's input names, as they are stored, in the order of their hashes."""
    found: dict[str, bytes] = {}

    def read(sha256: str) -> bytes:
        found[sha256] = sealed_blob(sha256)
        return get_blob(sha256, key_id=recorded.key_id)

    if not recorded.erased:
        request_of(_made(recorded), read)
    return [
        {"sha256": sha256, "content": b64encode(content).decode()}
        for sha256, content in sorted(found.items())
    ]
