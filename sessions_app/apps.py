from django.apps import AppConfig


class SessionsApp(AppConfig):
    name = "sessions_app"
    label = "sessions_app"
    verbose_name = "Sessions"

    def ready(self) -> None:
        """Let health count the open sessions, budgets be for them; let them go with their person."""
        from cartrita.accounts.commands import register_erasure
        from cartrita.http.health import register_session_count
        from governance.known_scopes import register_ids
        from sessions_app.commands import erase_sessions_of
        from sessions_app.queries import is_session, open_session_count

        register_ids("session", is_session)
        register_session_count(open_session_count)
        register_erasure(erase_sessions_of)
