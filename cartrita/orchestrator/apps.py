from typing import Any
from uuid import UUID

from django.apps import AppConfig


def _erase_attachments(*, session_id: UUID, workspace_id: UUID, actor: str) -> Any:
    # Loads numpy, which no process should have to that erases nothing.
    from retrieval.commands import erase_session_documents

    return erase_session_documents(session_id=session_id, workspace_id=workspace_id, actor=actor)


class OrchestratorApp(AppConfig):
    name = "cartrita.orchestrator"
    label = "orchestrator"
    verbose_name = "Orchestrator"

    def ready(self) -> None:
        """Tell sessions what the other apps know of them: running plans, attachments to erase."""
        from cartrita.orchestrator.liveness import running_plans
        from sessions_app.activity import register_activity
        from sessions_app.commands import register_erasure

        register_activity(running_plans)
        register_erasure(_erase_attachments)
