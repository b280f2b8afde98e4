from django.apps import AppConfig


class OrchestratorApp(AppConfig):
    name = "cartrita.orchestrator"
    label = "orchestrator"
    verbose_name = "Orchestrator"
