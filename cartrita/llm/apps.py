from django.apps import AppConfig


class LlmApp(AppConfig):
    name = "cartrita.llm"
    label = "llm"
    verbose_name = "Models"

    def ready(self) -> None:
        """Show in the health report which models are not called now; let budgets be for all."""
        from cartrita.http.health import register_component
        from cartrita.llm.breaker import standing
        from cartrita.llm.catalog import models
        from governance.known_scopes import register_names

        register_component("models", standing)
        register_names("model", lambda: [entry.name for entry in models()])
