"""A workspace's rulebook: its rules, version by version, and which set of them is in force. Pure.

Changes gather in a draft. Activating compiles the whole draft into one set with one content hash; until then
the set in force decides. The stream is `rulebook_id(workspace_id)`.
"""

from typing import Any, ClassVar
from uuid import UUID

from pydantic import Field

from cartrita.eventstore.ids import derived_id
from cartrita.eventstore.types import Event


class RuleWritten(Event):
    """A rule of the draft was added or changed: version 1 is its first.

    `definition` is the rule's canonical JSON with its examples; `rule_hash` its SHA-256 without them.
    """

    type_name: ClassVar[str] = "governance.RuleWritten"

    rule: str
    version: int = Field(ge=1)
    definition: dict[str, Any]
    rule_hash: str


class RuleWithdrawn(Event):
    """A rule was taken out of the draft."""

    type_name: ClassVar[str] = "governance.RuleWithdrawn"

    rule: str


class PolicyProposed(Event):
    """Somebody asks a second person to put the draft, which has this hash, in force."""

    type_name: ClassVar[str] = "governance.PolicyProposed"

    policy_hash: str
    by: str
    note: str = ""


class PolicyActivated(Event):
    """A set is in force: from the draft, or an earlier one again.

    `text_sha256` names the blob with the canonical text. `by` put it in force; `proposed_by` asked for it,
    and `alone` says that both are one person.
    """

    type_name: ClassVar[str] = "governance.PolicyActivated"

    policy: str
    policy_hash: str
    text_sha256: str
    rules: tuple[str, ...]
    by: str
    proposed_by: str = ""
    alone: bool = False
    note: str = ""


def rulebook_id(workspace_id: UUID) -> UUID:
    """Return the stream of a workspace's rulebook."""
    return derived_id(workspace_id, "rulebook")
