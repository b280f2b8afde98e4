"""Which process works on which session (operational rows, no read model), and what was counted."""

from django.db import models


class Claim(models.Model):
    """A session that a process works on. Without a row nobody does.

    `token` is another one at each take, so that a process whose claim was taken over can tell.
    """

    session_id = models.UUIDField(primary_key=True)
    owner = models.UUIDField()
    token = models.BigIntegerField()
    renewed_at = models.DateTimeField()

    class Meta:
        """Found by session alone."""

        db_table = "orchestrator_claim"


class MetricCount(models.Model):
    """Read model: how much of something was recorded; `key` is a JSON list of its name and labels."""

    key = models.TextField(primary_key=True)
    value = models.BigIntegerField()

    class Meta:
        """Small: labels take few values."""

        db_table = "orchestrator_metric_count"
