"""What people and the start of the system may do with policies."""

from uuid import UUID

from cartrita.eventstore import Append, Context, append, derived_id, put_blob
from governance.decision import PolicySetRecorded
from governance.policy import PolicySet


def record_policy_set(*, policy: PolicySet, workspace_id: UUID, actor: str = "system") -> UUID:
    """Store a policy's text under its hash and record it for a workspace; once, however often called.

    Returns the stream, which derives from workspace and hash.
    """
    stream_id = derived_id(workspace_id, f"policy-set:{policy.content_hash}")
    event = PolicySetRecorded(
        policy=policy.name,
        policy_hash=policy.content_hash,
        text_sha256=put_blob(policy.text.encode(), key_id=None),
        rules=tuple(rule.name for rule in policy.rules),
    )
    context = Context(workspace_id=workspace_id, actor=actor)
    append(Append(stream_id, 0, [event], context, [derived_id(stream_id, "recorded")]))
    return stream_id
