"""Read models of governance."""

from django.contrib.postgres.fields import ArrayField
from django.db import models

from cartrita.eventstore import SealedTextField


class PolicyDecision(models.Model):
    """One decision and, once the act has ended, its outcome; `id` is the decision's stream.

    Money is in micro-units of `currency`. `request_context` opens with `key_id`.
    """

    id = models.UUIDField(primary_key=True)
    created_at = models.DateTimeField(db_index=True)
    workspace_id = models.UUIDField()
    session_id = models.UUIDField(null=True)
    subject_kind = models.CharField(max_length=20)
    tool_name = models.CharField(max_length=200, blank=True)
    model_name = models.CharField(max_length=200, blank=True)
    agent_name = models.CharField(max_length=200, blank=True)
    decision = models.CharField(max_length=10)
    policy_rule = models.CharField(max_length=60)
    reason = models.TextField()
    review = models.BooleanField()
    cost_limit_before = models.BigIntegerField(null=True)
    cost_limit_after = models.BigIntegerField(null=True)
    currency = models.CharField(max_length=3)
    resource_usage_before = models.JSONField()
    resource_usage_after = models.JSONField()
    request_context = SealedTextField()
    user_context = models.JSONField()
    key_id = models.UUIDField(null=True)
    policy_hash = models.CharField(max_length=64)
    matched = ArrayField(models.CharField(max_length=60))
    not_matched = ArrayField(models.CharField(max_length=60))
    erred = ArrayField(models.CharField(max_length=60))
    message_for_agent = models.TextField(blank=True)
    message_for_people = models.TextField(blank=True)
    parameters = models.JSONField()
    rule_hash = models.CharField(max_length=64, blank=True)
    # What the act holds back of each budget until it is settled: [{budget, period_start, tokens, micros}].
    reserved = models.JSONField(default=list)
    possible_labels = ArrayField(models.CharField(max_length=200), default=list)
    grants = ArrayField(models.UUIDField(), default=list)
    approval_id = models.UUIDField(null=True)
    retry_after_ms = models.BigIntegerField(null=True)
    # The person in whose session it happened: `possible_labels` and `labels_added` count for both.
    requester_id = models.UUIDField(null=True)
    budget_id = models.UUIDField(null=True)
    warnings = ArrayField(models.UUIDField(), default=list)
    redact = ArrayField(models.CharField(max_length=64), default=list)
    # Kinds of what detectors found in the text of the act, never the text.
    findings = ArrayField(models.CharField(max_length=200), default=list)
    # The break-glass in force, and what would have been decided without it, where that is something else: the
    # same outcome and rule where only more would have been taken out of a text, or left out.
    glass_id = models.UUIDField(null=True)
    unbroken_outcome = models.CharField(max_length=10, blank=True)
    unbroken_rule = models.CharField(max_length=60, blank=True)
    # What the set in shadow would have decided; no outcome where it could not be evaluated.
    shadow_hash = models.CharField(max_length=64, blank=True)
    shadow_outcome = models.CharField(max_length=10, blank=True)
    shadow_rule = models.CharField(max_length=60, blank=True)
    decided_at = models.DateTimeField()
    trace_id = models.CharField(max_length=32, blank=True)

    act_outcome = models.CharField(max_length=10, blank=True)
    act_cost_micros = models.BigIntegerField(null=True)
    act_currency = models.CharField(max_length=3, blank=True)
    act_tokens = models.BigIntegerField(null=True)
    act_estimated = models.BooleanField(default=False)
    labels_added = ArrayField(models.CharField(max_length=200), default=list)
    settled_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "policy_decisions"
        ordering = ("-created_at", "-id")
        verbose_name = "decision"
        indexes = (
            models.Index(fields=["workspace_id", "-created_at"], name="decision_workspace"),
            models.Index(fields=["session_id", "created_at"], name="decision_session"),
            models.Index(fields=["policy_rule", "-created_at"], name="decision_rule"),
            models.Index(fields=["-created_at"], name="decision_review", condition=models.Q(review=True)),
            models.Index(
                fields=["session_id", "tool_name", "settled_at"],
                name="decision_failures",
                condition=models.Q(act_outcome__in=["failed", "timed_out"]),
            ),
            models.Index(
                fields=["requester_id", "created_at"],
                name="decision_under_way",
                condition=models.Q(act_outcome=""),
            ),
            models.Index(
                fields=["workspace_id", "-created_at"],
                name="decision_shadow",
                condition=models.Q(shadow_hash__gt=""),
            ),
            models.Index(
                fields=["workspace_id", "-created_at"],
                name="decision_glass",
                condition=models.Q(glass_id__isnull=False),
            ),
        )

    def __str__(self) -> str:
        """Return what was decided on what."""
        return f"{self.decision}: {self.tool_name or self.model_name or self.subject_kind}"


class BudgetBalance(models.Model):
    """What is held back and used of a budget in one period. Steps lock and change it; no projection.

    `period_start` is the epoch for a total. It equals the sums over the decisions that name it
    (`manage.py budgets --check`).
    """

    budget_id = models.UUIDField()
    workspace_id = models.UUIDField()
    period_start = models.DateTimeField()
    reserved_tokens = models.BigIntegerField(default=0)
    reserved_micros = models.BigIntegerField(default=0)
    used_tokens = models.BigIntegerField(default=0)
    used_micros = models.BigIntegerField(default=0)

    class Meta:
        db_table = "governance_budget_balance"
        constraints = (models.UniqueConstraint(fields=["budget_id", "period_start"], name="one_balance"),)


class LabelSet(models.Model):
    """The labels of what a session (`session:<id>`) or a person (`user:<id>`) has read; it only grows.

    `labels` maps each label to when it was last added (RFC 3339). Steps lock and change it.
    """

    subject = models.CharField(max_length=60, primary_key=True)
    workspace_id = models.UUIDField()
    labels = models.JSONField(default=dict)

    class Meta:
        db_table = "governance_label_set"


class ThrottleBucket(models.Model):
    """One token bucket of a throttle rule; `level` counts thousandths of an act at `at`."""

    key = models.CharField(max_length=200, primary_key=True)
    workspace_id = models.UUIDField()
    level = models.BigIntegerField()
    at = models.DateTimeField()

    class Meta:
        db_table = "governance_throttle_bucket"


class Budget(models.Model):
    """Read model: the budgets; `id` is the budget's stream."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    version = models.IntegerField()
    name = models.CharField(max_length=150)
    scope_kind = models.CharField(max_length=10)
    scope = models.CharField(max_length=200)
    parent_id = models.UUIDField(null=True)
    period = models.CharField(max_length=7)
    time_zone = models.CharField(max_length=64)
    limit_tokens = models.BigIntegerField(null=True)
    limit_micros = models.BigIntegerField(null=True)
    currency = models.CharField(max_length=3)
    warn_percent = models.SmallIntegerField()
    closed = models.BooleanField(default=False)
    updated_at = models.DateTimeField()

    class Meta:
        db_table = "governance_budget"
        ordering = ("workspace_id", "scope_kind", "scope", "period")
        indexes = (models.Index(fields=["workspace_id", "scope_kind", "scope"], name="budget_scope"),)


class Approval(models.Model):
    """Read model: the approvals; `id` is the approval's stream. Sealed fields open with `key_id`."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    session_id = models.UUIDField(null=True)
    version = models.IntegerField()
    decision_id = models.UUIDField()
    requester_id = models.UUIDField(null=True)
    subject_kind = models.CharField(max_length=20)
    agent_name = models.CharField(max_length=200, blank=True)
    tool_name = models.CharField(max_length=200, blank=True)
    model_name = models.CharField(max_length=200, blank=True)
    definition_hash = models.CharField(max_length=64, blank=True)
    safety_level = models.CharField(max_length=10, blank=True)
    arguments = SealedTextField(blank=True)
    arguments_sha256 = models.CharField(max_length=64, blank=True)
    arguments_bytes = models.BigIntegerField()
    arguments_hash = SealedTextField()
    rule = models.CharField(max_length=60)
    rule_hash = models.CharField(max_length=64)
    policy_hash = models.CharField(max_length=64)
    reason = models.TextField()
    approver_roles = ArrayField(models.CharField(max_length=40))
    quorum = models.SmallIntegerField()
    scopes = ArrayField(models.CharField(max_length=10))
    edited_by = models.CharField(max_length=80, blank=True)
    status = models.CharField(max_length=10)
    # [{by, user_id, vote, own, at}], in order.
    votes = models.JSONField(default=list)
    scope = models.CharField(max_length=10, blank=True)
    pattern = SealedTextField(blank=True)
    valid_until = models.DateTimeField(null=True)
    own = models.BooleanField(default=False)
    void_cause = models.CharField(max_length=20, blank=True)
    replacement = SealedTextField(blank=True)
    uses = models.IntegerField(default=0)
    key_id = models.UUIDField(null=True)
    requested_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "governance_approval"
        ordering = ("-requested_at", "-id")
        indexes = (
            models.Index(fields=["workspace_id", "status", "requested_at"], name="approval_inbox"),
            models.Index(fields=["session_id", "status"], name="approval_session"),
            models.Index(fields=["expires_at"], name="approval_expiry", condition=models.Q(status="waiting")),
        )


class ApprovalNote(models.Model):
    """Read model: comments, questions and answers on an approval; `id` is the event's."""

    id = models.UUIDField(primary_key=True)
    approval_id = models.UUIDField(db_index=True)
    workspace_id = models.UUIDField()
    kind = models.CharField(max_length=10)
    by = models.CharField(max_length=80)
    text = SealedTextField()
    key_id = models.UUIDField(null=True)
    created_at = models.DateTimeField()

    class Meta:
        db_table = "governance_approval_note"
        ordering = ("created_at", "id")


class PolicyRule(models.Model):
    """Read model: the rules of a workspace's draft, each in its newest version."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    name = models.CharField(max_length=60)
    version = models.IntegerField()
    priority = models.IntegerField()
    outcome = models.CharField(max_length=10)
    sentence = models.TextField()
    definition = models.JSONField()
    rule_hash = models.CharField(max_length=64)
    withdrawn = models.BooleanField(default=False)
    updated_at = models.DateTimeField()
    updated_by = models.CharField(max_length=80)

    class Meta:
        db_table = "governance_policy_rule"
        ordering = ("priority", "name")
        constraints = (models.UniqueConstraint(fields=["workspace_id", "name"], name="one_rule_of_a_name"),)


class PolicyVersion(models.Model):
    """Read model: the sets that were in force in a workspace; `id` is the activating event's.

    The row of the set in force names the set in shadow, too: a step reads both at once.
    """

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    stream_version = models.IntegerField()
    policy = models.CharField(max_length=100)
    policy_hash = models.CharField(max_length=64)
    rules = ArrayField(models.CharField(max_length=60))
    by = models.CharField(max_length=80)
    proposed_by = models.CharField(max_length=80, blank=True)
    approved_by = models.CharField(max_length=80, blank=True)
    alone = models.BooleanField(default=False)
    note = models.TextField(blank=True)
    active = models.BooleanField(default=True)
    activated_at = models.DateTimeField()
    retired_at = models.DateTimeField(null=True)
    shadow_hash = models.CharField(max_length=64, blank=True)

    class Meta:
        db_table = "governance_policy_version"
        ordering = ("-activated_at", "-id")
        constraints = (
            models.UniqueConstraint(
                fields=["workspace_id"], condition=models.Q(active=True), name="one_set_in_force"
            ),
        )


class Rulebook(models.Model):
    """Read model: where a workspace's draft stands; `id` is the rulebook's stream."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField(unique=True)
    version = models.IntegerField()
    proposed_hash = models.CharField(max_length=64, blank=True)
    proposed_by = models.CharField(max_length=80, blank=True)
    proposed_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "governance_rulebook"


class BreakGlass(models.Model):
    """Read model: openings of break-glass. One is in force from `opened_at` until `until` or `ended_at`.

    `scope` is a session's or person's id, empty for the whole workspace. `alone` says that nobody else in the
    workspace could be told of it.
    """

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    version = models.IntegerField()
    scope_kind = models.CharField(max_length=10)
    scope = models.CharField(max_length=64, blank=True)
    reason = models.TextField()
    by = models.CharField(max_length=80)
    alone = models.BooleanField(default=False)
    opened_at = models.DateTimeField()
    until = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    ended_by = models.CharField(max_length=80, blank=True)
    ended_note = models.TextField(blank=True)

    class Meta:
        db_table = "governance_break_glass"
        ordering = ("-opened_at", "-id")
        verbose_name = "break-glass"
        verbose_name_plural = "break-glass"
        indexes = (
            models.Index(fields=["workspace_id", "-opened_at"], name="glass_workspace"),
            models.Index(
                fields=["workspace_id", "until"],
                name="glass_open",
                condition=models.Q(ended_at__isnull=True),
            ),
        )


class GlassReview(models.Model):
    """Read model: decisions under break-glass that a person has looked at since; `id` is the decision's."""

    id = models.UUIDField(primary_key=True)
    glass_id = models.UUIDField(db_index=True)
    workspace_id = models.UUIDField()
    by = models.CharField(max_length=80)
    own = models.BooleanField(default=False)
    note = models.TextField(blank=True)
    reviewed_at = models.DateTimeField()

    class Meta:
        db_table = "governance_glass_review"
        ordering = ("-reviewed_at", "-id")


class BackTest(models.Model):
    """Read model: the back-tests; `id` is the stream of each. Its report is the blob `report_sha256`."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    version = models.IntegerField()
    policy = models.CharField(max_length=100)
    policy_hash = models.CharField(max_length=64)
    source = models.CharField(max_length=10)
    by = models.CharField(max_length=80)
    since = models.DateTimeField(null=True)
    until = models.DateTimeField(null=True)
    only_session = models.UUIDField(null=True)
    status = models.CharField(max_length=10)
    requested_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    ended_by = models.CharField(max_length=80, blank=True)
    code = models.CharField(max_length=100, blank=True)
    message = models.TextField(blank=True)
    report_sha256 = models.CharField(max_length=64, blank=True)
    decisions = models.BigIntegerField(null=True)
    not_redecidable = models.BigIntegerField(null=True)
    differences = models.BigIntegerField(null=True)
    changed = models.BigIntegerField(null=True)
    sessions_changed = models.BigIntegerField(null=True)
    milliseconds = models.BigIntegerField(null=True)

    class Meta:
        db_table = "governance_back_test"
        ordering = ("-requested_at", "-id")
        verbose_name = "back-test"
        indexes = (
            models.Index(fields=["workspace_id", "-requested_at"], name="back_test_workspace"),
            models.Index(
                fields=["requested_at"], name="back_test_queue", condition=models.Q(status="requested")
            ),
        )


class BackTestProgress(models.Model):
    """How far a back-test that is carried out has come. Whoever does writes it; no projection, no fact."""

    back_test_id = models.UUIDField(primary_key=True)
    decisions = models.BigIntegerField()
    total = models.BigIntegerField()
    phase = models.CharField(max_length=10)
    starts = models.IntegerField()
    began_at = models.DateTimeField()
    beat_at = models.DateTimeField()

    class Meta:
        db_table = "governance_back_test_progress"
