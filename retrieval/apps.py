from django.apps import AppConfig


class RetrievalApp(AppConfig):
    name = "retrieval"
    label = "retrieval"
    verbose_name = "Retrieval"
