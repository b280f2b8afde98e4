from django.apps import AppConfig


class OrchestratorApp(AppConfig):
    name = "cartrita.orchestrator"
    label = "orchestrator"
    verbose_name = "Orchestrator"

    def ready(self) -> None:
        """Tell sessions what the other apps know of them: running plans, attachments to erase."""
        from cartrita.orchestrator.liveness import running_plans
        from retrieval.commands import erase_session_documents
        from sessions_app.activity import register_activity
        from sessions_app.commands import register_erasure

        register_activity(running_plans)
        register_erasure(erase_session_documents)
