from typing import Any

from django.apps import AppConfig


class RetrievalApp(AppConfig):
    name = "retrieval"
    label = "retrieval"
    verbose_name = "Retrieval"

    def ready(self) -> None:
        """Let documents go with their person."""
        from cartrita.accounts.commands import register_erasure

        register_erasure(_erase_documents_of)


def _erase_documents_of(**person: Any) -> None:
    # What it imports is heavy, and most processes erase nobody.
    from retrieval.commands import erase_documents_of

    erase_documents_of(**person)
