from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class OrchestratorApp(AppConfig):
    name = "cartrita.orchestrator"
    label = "orchestrator"
    verbose_name = "Orchestrator"

    def ready(self) -> None:
        """Collect the agents; tell sessions and documents what they must know of one another and of plans."""
        from cartrita.orchestrator import attachments, metrics, reading
        from cartrita.orchestrator.agents import names_that_act
        from cartrita.orchestrator.erased import end_work_of_session
        from cartrita.orchestrator.liveness import running_plans, waiting_approvals
        from governance.commands.acts import settle_of_session
        from governance.commands.approvals import void_of_session
        from governance.known_scopes import register_names
        from retrieval.scope import register_session_rights
        from sessions_app.activity import register_activity
        from sessions_app.commands import register_attachments, register_erasure
        from tasks_app.scope import register_reader

        register_activity(running_plans)
        register_activity(waiting_approvals)
        register_erasure(attachments.erase_attachments)
        register_erasure(end_work_of_session)
        # Balances are locked before approvals, as steps do.
        register_erasure(settle_of_session)
        register_erasure(void_of_session)
        register_attachments(attachments.unknown_attachments)
        register_session_rights(may_read=attachments.may_read, may_write=attachments.may_write)
        register_reader(reading.may_read)
        register_names("agent", names_that_act)
        metrics.register()
        autodiscover_modules("agents")
