"""Which policy decides."""

from functools import cache, lru_cache
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from cartrita.errors import BadInput, NotFound
from cartrita.eventstore import get_blob
from governance.commands.policies import record_policy_set
from governance.policy import PolicySet, load_policy

# Database, workspace and hash of the sets whose text is known to be stored.
_recorded: set[tuple[str, UUID, str]] = set()


class PolicyNotReadable(BadInput):
    """The file that should hold the rules is missing or is no text."""

    code: ClassVar[str] = "policy_not_readable"


class UnknownPolicy(NotFound):
    """No policy text is stored under that hash."""

    code: ClassVar[str] = "unknown_policy"


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


def active_policy(workspace_id: UUID) -> PolicySet:
    """Return the policy that decides in a workspace; its text is stored before it is first returned."""
    policy = policy_of_file(settings.POLICY_FILE)
    known = (str(connection.settings_dict["NAME"]), workspace_id, policy.content_hash)
    if known not in _recorded:
        record_policy_set(policy=policy, workspace_id=workspace_id)
        # After the commit, or a rolled-back transaction would leave decisions without their policy's text.
        transaction.on_commit(lambda: _recorded.add(known), robust=True)
    return policy


@lru_cache(maxsize=32)
def policy_set(policy_hash: str) -> PolicySet:
    """Return the stored policy set of that hash, compiled. Raises UnknownPolicy."""
    try:
        text = get_blob(policy_hash).decode()
    except NotFound:
        raise UnknownPolicy(
            f"No policy with the hash {policy_hash} is stored.", field="policy_hash"
        ) from None
    return load_policy(text, policy_hash)
