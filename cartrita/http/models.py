"""Stored answers of requests that carried an Idempotency-Key."""

from typing import ClassVar

from django.db import models


class StoredAnswer(models.Model):
    """The answer to a request, kept for 24 hours.

    Nothing here can be read without the client's key: `id` is a hash of caller and key, `answer` is encrypted
    and `fingerprint` keyed with it, so that a stored answer may hold a secret or personal text.
    """

    id = models.BinaryField(primary_key=True)
    fingerprint = models.BinaryField()
    answer = models.BinaryField()
    answered_at = models.DateTimeField()

    class Meta:
        """Cleared by age."""

        db_table = "http_stored_answer"
        indexes: ClassVar = [models.Index("answered_at", name="http_stored_answer_age")]
