"""Fields of request bodies that take what the schema says, and nothing that could be turned into it."""

from typing import Any

from rest_framework import serializers


class Text(serializers.CharField):
    """A text. DRF's own field also takes numbers, and keeps what they look like."""

    def to_internal_value(self, data: Any) -> str:
        """Return the text. Raises ValidationError for everything else."""
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)
