from django.apps import AppConfig


class RetrievalApp(AppConfig):
    name = "retrieval"
    label = "retrieval"
    verbose_name = "Retrieval"

    def ready(self) -> None:
        """Let documents go with their person."""
        from cartrita.accounts.commands import register_erasure
        from retrieval.commands import erase_documents_of

        register_erasure(erase_documents_of)
