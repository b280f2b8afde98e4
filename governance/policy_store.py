"""Where compiled policy sets come from: the installation's file, and the texts stored under their hash."""

import logging
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from time import monotonic
from typing import ClassVar, get_args

from cartrita.errors import BadInput, CartritaError
from cartrita.eventstore import get_blob
from cartrita.eventstore.blobs import UnknownBlob
from governance.policy import PolicySet, compile_policy, load_policy
from governance.rule import Match, Rule, SubjectKind
from governance.rulebook import UnknownPolicy

logger = logging.getLogger(__name__)

# A set of 100 rules with its compiled conditions takes about a megabyte.
COMPILED_SETS_KEPT = 64
# After how many seconds a process tries again to read a set in shadow that it could not: twice as many each
# time, so that a lost set costs no step anything, and one that is restored is soon watched.
FIRST_RETRY_AFTER, LAST_RETRY_AFTER = 1.0, 60.0


class PolicyNotReadable(BadInput):
    """The file that should hold the rules is missing or is no text."""

    code: ClassVar[str] = "policy_not_readable"


@cache
def policy_of_file(path: str) -> PolicySet:
    """Return the policy that a file holds, as it was when this process first read it.

    Raises PolicyNotValid, which names every problem with file, line and column, and PolicyNotReadable.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyNotReadable(
            f"The policy file {path} cannot be read: {error}. Correct CARTRITA_POLICY_FILE.",
            field="POLICY_FILE",
        ) from None
    return load_policy(text, Path(path).name)


@lru_cache(maxsize=COMPILED_SETS_KEPT)
def policy_set(policy_hash: str) -> PolicySet:
    """Return the stored policy set of that hash, compiled. Raises UnknownPolicy."""
    try:
        text = get_blob(policy_hash).decode()
    except UnknownBlob:
        raise UnknownPolicy(
            f"No policy with the hash {policy_hash} is stored.", field="policy_hash"
        ) from None
    return load_policy(text, policy_hash)


def set_in_force(policy_hash: str) -> PolicySet:
    """Return the stored set that decides, and `closed()` where it cannot be found, read or compiled."""
    try:
        return policy_set(policy_hash)
    except CartritaError:
        logger.exception("The policy set %s is in force and cannot be evaluated.", policy_hash)
        return closed()


@cache
def closed() -> PolicySet:
    """Return the set that decides in place of one that cannot be evaluated: all is denied, and for review."""
    everything = Match(kinds=get_args(SubjectKind))
    said = "The rules that are in force cannot be read, so nothing is allowed until another set is activated."
    return compile_policy(
        [
            Rule(name="rules-cannot-be-read", sentence=said, match=everything, outcome="deny"),
            Rule(name="all-is-reviewed", sentence=said, match=everything, outcome="audit"),
        ],
        "closed",
    )


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """When to try again to read a set, and how many seconds that is after the last time."""

    again_at: float
    wait: float


# By hash, in this process.
_unreadable: dict[str, _Unreadable] = {}


def set_in_shadow(policy_hash: str) -> PolicySet | None:
    """Return the stored set of that hash to be watched, None while it cannot be found, read or compiled.

    That is tried again after a while, and not for each decision.
    """
    now, failed = monotonic(), _unreadable.get(policy_hash)
    if failed is not None:
        if now < failed.again_at:
            return None
        # Before trying, so that no other thread tries as well.
        wait = min(failed.wait * 2, LAST_RETRY_AFTER)
        _unreadable[policy_hash] = _Unreadable(now + wait, wait)
    try:
        policy = policy_set(policy_hash)
    except CartritaError:
        # What is only watched holds up no act; the report counts what it did not see.
        if failed is None:
            _unreadable[policy_hash] = _Unreadable(now + FIRST_RETRY_AFTER, FIRST_RETRY_AFTER)
            logger.exception("The policy set %s is in shadow and cannot be evaluated.", policy_hash)
        return None
    if _unreadable.pop(policy_hash, None) is not None:
        logger.warning("The policy set %s is in shadow and can be evaluated again.", policy_hash)
    return policy
