"""Which policy decides, what the rulebook holds, and what another set would have decided."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from django.db.models import Count, F, Func, QuerySet
from django.utils import timezone

from cartrita.eventstore import RecordedEvent, load
from cartrita.eventstore.store import execute
from cartrita.http.pagination import DEFAULT_LIMIT, Page, page_of
from governance import rulebook as rulebooks
from governance.commands.policies import begin_rulebook
from governance.decide import Verdict, decide
from governance.decision import DecisionMade, request_of, verdict_of
from governance.examples import ExampleFailure, run_examples
from governance.four_eyes import FourEyes
from governance.models import PolicyDecision, PolicyRule, PolicyVersion
from governance.models import Rulebook as RulebookRow
from governance.policy import (
    PolicyNotValid,
    PolicySet,
    Problem,
    Rule,
    load_policy,
    policy_text,
    rule_hash,
)
from governance.policy_store import PolicyNotReadable, policy_of_file, policy_set
from governance.queries.backtests import latest
from governance.queries.decisions import UnknownDecision, blobs_of, decision_made
from governance.queries.four_eyes import four_eyes
from governance.queries.shadow_reports import ShadowReport, report_on
from governance.queries.stages import Stage, stages_in, trials_stage, with_skipped
from governance.rulebook import (
    APPROVERS,
    Leave,
    PolicyShadowed,
    Proposal,
    Rulebook,
    RuleWritten,
    Shadow,
    UnknownPolicy,
    UnknownRule,
    compile_draft,
    draft_rules,
    rulebook_id,
    trials_id,
)

__all__ = [
    "Checked",
    "Draft",
    "PolicyNotReadable",
    "RuleHits",
    "ShadowReport",
    "Stage",
    "Tried",
    "UnknownPolicy",
    "active_policy",
    "check_text",
    "draft",
    "export_text",
    "known_set",
    "policy_of_file",
    "policy_set",
    "rule",
    "rule_hits",
    "rules",
    "shadow_report",
    "stage",
    "try_on",
    "version_in_force",
    "versions",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A set as its author sees it: what keeps it from being one, what is doubtful, which examples fail.

    `policy_hash` is empty while there are problems. `text` is YAML.
    """

    policy: str
    rules: tuple[Rule, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    failures: tuple[ExampleFailure, ...]
    text: str
    policy_hash: str

    @property
    def ready(self) -> bool:
        """Whether it may be proposed and put in force."""
        return not self.problems and not self.failures


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft(Checked):
    """The draft of a workspace beside what is in force there.

    `version` is what commands take as `expected_version`. `changed` names the rules that the set in force
    has otherwise or not at all, or that the draft lacks. `proposal` waits for a second person, `approved`
    have one's leave, `shadow` is evaluated beside decisions. `four_eyes` says whether a second person is
    needed, and who may be one.
    """

    version: int
    active_hash: str
    changed: tuple[str, ...]
    proposal: Proposal | None
    proposed_at: datetime | None
    approved: tuple[Leave, ...]
    shadow: Shadow | None
    four_eyes: FourEyes


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One past decision: what was decided, and what another set gives on the very same request."""

    decision_id: UUID
    recorded: Verdict
    new: Verdict
    policy_hash: str

    @property
    def changed(self) -> bool:
        """Whether outcome or deciding rule differ."""
        return (self.recorded.outcome, self.recorded.rule) != (self.new.outcome, self.new.rule)


@dataclass(frozen=True, slots=True)
class RuleHits:
    """How often a rule matched, and how often it was the one that decided."""

    matched: int = 0
    decided: int = 0


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


def draft(workspace_id: UUID) -> Draft:
    """Return the draft of a workspace, checked, with its examples tried. Raises as `active_policy` does."""
    active = active_policy(workspace_id)
    history = load(rulebook_id(workspace_id))
    rulebook = _folded(history)
    checked = _checked(rulebook)
    row = RulebookRow.objects.get(workspace_id=workspace_id)
    return Draft(
        policy=checked.policy,
        rules=checked.rules,
        problems=checked.problems,
        warnings=checked.warnings,
        failures=checked.failures,
        text=checked.text,
        policy_hash=checked.policy_hash,
        version=len(history),
        active_hash=active.content_hash,
        changed=_changed(checked.rules, active),
        proposal=rulebook.proposal,
        proposed_at=row.proposed_at,
        approved=tuple(rulebook.approved.values()),
        shadow=rulebook.shadow,
        four_eyes=four_eyes(workspace_id, APPROVERS),
    )


def rules(workspace_id: UUID) -> list[PolicyRule]:
    """Return the rules of the draft, each in its newest version, in order of priority."""
    active_policy(workspace_id)
    return list(PolicyRule.objects.filter(workspace_id=workspace_id, withdrawn=False))


def rules_page(workspace_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT) -> Page:
    """Return a page of the draft's rules, in order of priority."""
    active_policy(workspace_id)
    rows = PolicyRule.objects.filter(workspace_id=workspace_id, withdrawn=False)
    return page_of(rows, order=("priority", "name"), cursor=cursor, limit=limit)


def rule(workspace_id: UUID, name: str) -> PolicyRule:
    """Return one rule of the draft. Raises UnknownRule."""
    active_policy(workspace_id)
    rows = PolicyRule.objects.filter(workspace_id=workspace_id, name=name, withdrawn=False)
    # The database takes no NUL, and no rule has a name with control characters.
    found = rows.first() if name.isprintable() else None
    if found is None:
        raise UnknownRule(f"The draft has no rule {name[:60]!r}.", field="name")
    return found


def version_in_force(workspace_id: UUID) -> PolicyVersion:
    """Return since when which set is in force, and who put it there."""
    active_policy(workspace_id)
    return PolicyVersion.objects.get(workspace_id=workspace_id, active=True)


def versions(workspace_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT) -> Page:
    """Return a page of the sets that were in force in a workspace, newest first. Raises BadInput."""
    active_policy(workspace_id)
    rows = PolicyVersion.objects.filter(workspace_id=workspace_id)
    return page_of(rows, order=("-stream_version",), cursor=cursor, limit=limit)


def known_set(workspace_id: UUID, policy_hash: str) -> PolicySet:
    """Return a set that is the draft, or was proposed, in shadow or in force here. Raises UnknownPolicy."""
    active_policy(workspace_id)
    return _known(_folded(load(rulebook_id(workspace_id))), policy_hash)


def check_text(text: str) -> Checked:
    """Check a policy file as it would be imported: problems with their places, warnings, failures."""
    try:
        policy = load_policy(text)
    except PolicyNotValid as error:
        return Checked(
            policy="", rules=(), problems=error.problems, warnings=(), failures=(), text=text, policy_hash=""
        )
    return _of_set(policy, text)


def export_text(workspace_id: UUID, policy_hash: str | None = None) -> str:
    """Return a set as YAML that `load_policy` reads back to the same hash (None: the set in force).

    Examples that its rules had come with it. Raises UnknownPolicy for a hash that this workspace never knew.
    """
    active = active_policy(workspace_id)
    history = load(rulebook_id(workspace_id))
    policy = active if policy_hash is None else _known(_folded(history), policy_hash)
    # The stored text holds no examples; a rule's version had some when it was written.
    with_examples = {
        recorded.event.rule_hash: recorded.event.definition
        for recorded in history
        if isinstance(recorded.event, RuleWritten)
    }
    written = [
        Rule.model_validate(with_examples[version]) if (version := rule_hash(each)) in with_examples else each
        for each in policy.rules
    ]
    return policy_text(written, policy.name, environment=policy.environment)


def stage(
    workspace_id: UUID, policy_hash: str | None = None, *, checked: Draft | None = None
) -> tuple[Stage, ...]:
    """Return the stages of a set (None: the draft), each with who and when, in the order of its life.

    `checked` is the draft, where the caller has it already. Raises UnknownPolicy.
    """
    present = checked or draft(workspace_id)
    is_draft = policy_hash in {None, present.policy_hash}
    named = present.policy_hash if policy_hash is None else policy_hash
    history = load(rulebook_id(workspace_id))
    if not is_draft:
        _known(_folded(history), named)
    stages = stages_in(history, named, is_draft=is_draft)
    stages["validated"] = _validated(present) if is_draft else Stage("validated", "done")
    if named:
        stages["tried"] = trials_stage(load(trials_id(workspace_id, named)))
        stages["back_tested"] = _back_tested(workspace_id, named)
    return with_skipped([*stages.values()])


def shadow_report(
    workspace_id: UUID, since: datetime, *, policy_hash: str | None = None, until: datetime | None = None
) -> ShadowReport | None:
    """Return what a set in shadow would have changed since a time, beside what was decided.

    None: the set in shadow now, or the last one that was; the answer is None where there never was one.
    Raises UnknownPolicy.
    """
    active_policy(workspace_id)
    history = load(rulebook_id(workspace_id))
    if policy_hash is None:
        shadowed = [each.event for each in history if isinstance(each.event, PolicyShadowed)]
        if not shadowed:
            return None
        policy_hash = shadowed[-1].policy_hash
    elif policy_hash not in _folded(history).shadowed:
        raise UnknownPolicy(f"The set {policy_hash[:64]} never was in shadow here.", field="policy_hash")
    return report_on(workspace_id, policy_hash, history, since=since, until=until or timezone.now())


def try_on(
    *, workspace_id: UUID, decision_id: UUID, text: str | None = None, policy_hash: str | None = None
) -> Tried:
    """Decide a past request of this workspace under the draft, a known set, or a policy file's `text`.

    Raises UnknownDecision (also for other workspaces' decisions), NotRedecidable where the request is erased,
    PolicyNotValid, UnknownPolicy.
    """
    recorded = decision_made(decision_id)
    if recorded.workspace_id != workspace_id:
        raise UnknownDecision(f"There is no decision {decision_id}.", field="decision_id")
    made = recorded.event
    assert isinstance(made, DecisionMade)  # noqa: S101 # what decision_made returns
    request = request_of(made, blobs_of(recorded))
    if text is not None:
        policy = load_policy(text)
    elif policy_hash is not None:
        policy = known_set(workspace_id, policy_hash)
    else:
        active_policy(workspace_id)
        policy = compile_draft(_folded(load(rulebook_id(workspace_id))))
    return Tried(
        decision_id=decision_id,
        recorded=verdict_of(made),
        new=decide(request, policy),
        policy_hash=policy.content_hash,
    )


def rule_hits(workspace_id: UUID, since: datetime) -> dict[str, RuleHits]:
    """Count for each rule in how many decisions since a time it matched, and in how many it decided."""
    decisions = PolicyDecision.objects.filter(workspace_id=workspace_id, created_at__gte=since).order_by()
    matched = _counts(
        decisions.annotate(rule=Func(F("matched"), function="unnest", set_returning=True)), "rule"
    )
    decided = _counts(decisions, "policy_rule")
    return {
        name: RuleHits(matched.get(name, 0), decided.get(name, 0)) for name in sorted({*matched, *decided})
    }


def _active_hash(workspace_id: UUID) -> str | None:
    # Asked very often: a prepared statement takes a tenth of a queryset's time.
    row = execute(IN_FORCE, [workspace_id]).fetchone()
    return in_force_and_shadow(row[0])[0] if row else None


# The hashes of the set in force and of the one in shadow in one value, so that a statement that asks for more
# looks their row up once.
IN_FORCE: LiteralString = """
    select policy_hash || shadow_hash from governance_policy_version
    where workspace_id = %b::uuid and active
"""


def in_force_and_shadow(hashes: str | None) -> tuple[str | None, str]:
    """Take apart what `IN_FORCE` selects; None: there never was a set in force, "": there is no shadow."""
    return (hashes[:64], hashes[64:]) if hashes else (None, "")


def _folded(history: list[RecordedEvent]) -> Rulebook:
    return rulebooks.fold(recorded.event for recorded in history)


def _known(rulebook: Rulebook, policy_hash: str) -> PolicySet:
    if policy_hash in rulebook.stored:
        return policy_set(policy_hash)
    try:
        compiled = compile_draft(rulebook)
    except PolicyNotValid:
        compiled = None
    if compiled is None or compiled.content_hash != policy_hash:
        raise UnknownPolicy(
            f"No policy with the hash {policy_hash} is the draft, was proposed, in shadow or in force here.",
            field="policy_hash",
        )
    return compiled


def _checked(rulebook: Rulebook) -> Checked:
    try:
        policy = compile_draft(rulebook)
    except PolicyNotValid as error:
        readable, _ = draft_rules(rulebook)
        return Checked(
            policy=rulebook.policy,
            rules=readable,
            problems=error.problems,
            warnings=(),
            failures=(),
            text=policy_text(readable, rulebook.policy),
            policy_hash="",
        )
    return _of_set(policy, policy_text(policy.rules, policy.name))


def _of_set(policy: PolicySet, text: str) -> Checked:
    return Checked(
        policy=policy.name,
        rules=policy.rules,
        problems=(),
        warnings=policy.warnings,
        failures=tuple(run_examples(policy)),
        text=text,
        policy_hash=policy.content_hash,
    )


def _validated(draft: Draft) -> Stage:
    examples = sum(len(each.examples) for each in draft.rules)
    warnings = len(draft.warnings)
    doubts = f", {warnings} warning{'s' * (warnings != 1)}" if warnings else ""
    if draft.problems:
        said = f"{len(draft.problems)} problem{'s' * (len(draft.problems) != 1)}"
    elif draft.failures:
        said = f"{len(draft.failures)} of {examples} examples do not hold"
    else:
        said = f"{examples} example{'s' * (examples != 1)} held"
    return Stage("validated", "done" if draft.ready else "failed", note=said + doubts)


def _changed(written: tuple[Rule, ...], active: PolicySet) -> tuple[str, ...]:
    drafted = {each.name: rule_hash(each) for each in written}
    names = drafted.keys() | active.rule_hashes.keys()
    return tuple(sorted(name for name in names if drafted.get(name) != active.rule_hashes.get(name)))


def _back_tested(workspace_id: UUID, policy_hash: str) -> Stage:
    found = latest(workspace_id, policy_hash)
    if found is None:
        return Stage("back_tested")
    plural = "s" * (found.decisions != 1)
    said = f"{found.decisions} past decision{plural}, {found.changed or 'none'} would change"
    if found.not_redecidable:
        said += f", {found.not_redecidable} are erased"
    return Stage("back_tested", "done", found.ended_at, found.by, said)


def _counts(decisions: QuerySet[PolicyDecision, Any], field: str) -> Mapping[str, int]:
    return {row[field]: row["n"] for row in decisions.values(field).annotate(n=Count("id"))}
