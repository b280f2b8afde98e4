"""Which policy decides, and what the rulebook holds."""

from uuid import UUID

from governance.commands.policies import begin_rulebook
from governance.models import PolicyVersion
from governance.policy import PolicySet
from governance.policy_store import PolicyNotReadable, policy_of_file, policy_set
from governance.rulebook import UnknownPolicy

__all__ = ["PolicyNotReadable", "UnknownPolicy", "active_policy", "policy_of_file", "policy_set"]


def active_policy(workspace_id: UUID) -> PolicySet:
    """Return the set that is in force in a workspace, as the caller's transaction sees it.

    One row is read, and each set compiled once in a process. A workspace that never had one starts with the
    set of `settings.POLICY_FILE`. Raises PolicyNotValid, PolicyNotReadable.
    """
    policy_hash = _active_hash(workspace_id)
    if policy_hash is None:
        begin_rulebook(workspace_id=workspace_id)
        policy_hash = _active_hash(workspace_id)
        assert policy_hash is not None  # noqa: S101 # a rulebook begins with a set in force
    return policy_set(policy_hash)


def _active_hash(workspace_id: UUID) -> str | None:
    found = PolicyVersion.objects.filter(workspace_id=workspace_id, active=True).order_by()
    return next(iter(found.values_list("policy_hash", flat=True)), None)
