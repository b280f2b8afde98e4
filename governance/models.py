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
        )
