from django.apps import AppConfig


class LlmApp(AppConfig):
    name = "cartrita.llm"
    label = "llm"
    verbose_name = "Models"
