"""Where compiled policy sets come from: the installation's file, and the texts stored under their hash."""

import logging
from functools import cache, lru_cache
from pathlib import Path
from typing import ClassVar, get_args

from cartrita.errors import BadInput
from cartrita.eventstore import get_blob
from cartrita.eventstore.blobs import UnknownBlob
from governance.policy import PolicyNotValid, PolicySet, compile_policy, load_policy
from governance.rule import Match, Rule, SubjectKind
from governance.rulebook import UnknownPolicy

logger = logging.getLogger(__name__)

# A set of 100 rules with its compiled conditions takes about a megabyte.
COMPILED_SETS_KEPT = 64


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
    """Return the stored set that decides, and `closed()` where this release cannot compile or find it."""
    try:
        return policy_set(policy_hash)
    except (PolicyNotValid, UnknownPolicy):
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


@lru_cache(maxsize=COMPILED_SETS_KEPT)
def set_in_shadow(policy_hash: str) -> PolicySet | None:
    """Return the stored set of that hash to be watched, None for one that this release cannot compile."""
    try:
        return policy_set(policy_hash)
    except (PolicyNotValid, UnknownPolicy):
        # What is only watched holds up no act; the report counts what it did not see.
        logger.exception("The policy set %s is in shadow and cannot be evaluated.", policy_hash)
        return None
