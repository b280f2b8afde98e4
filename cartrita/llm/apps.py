from django.apps import AppConfig


class LlmApp(AppConfig):
    name = "cartrita.llm"
    label = "llm"
    verbose_name = "Models"

    def ready(self) -> None:
        """Show in the health report which models are not called now."""
        from cartrita.http.health import register_component
        from cartrita.llm.breaker import standing

        register_component("models", standing)
