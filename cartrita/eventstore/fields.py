"""Model fields of read models."""

from typing import Any

from django.db import models

SEALED_PREFIX = "sealed:1:"
# Ends the token of a sealed value that is no text: it opens to JSON.
SEALED_JSON = ":json"


class SealedTextField(models.TextField):  # type: ignore[type-arg] # not generic at run time
    """Text that stands in its row as an event's sealed token, so that erasing the key erases it here too.

    Open it with `unseal` or `unseal_or_empty` and the key id that stands beside it. Refuses plain text.
    """

    def get_prep_value(self, value: Any) -> Any:
        if value and not str(value).startswith(SEALED_PREFIX):
            raise ValueError(
                f"{self.model.__name__}.{self.name} takes the token of a sealed field "
                "(recorded.sealed[...] or seal(...)), never plain text"
            )
        return super().get_prep_value(value)
