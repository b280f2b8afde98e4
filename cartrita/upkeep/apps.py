from django.apps import AppConfig


class UpkeepApp(AppConfig):
    name = "cartrita.upkeep"
    label = "upkeep"
    verbose_name = "Upkeep"

    def ready(self) -> None:
        """Make the Celery application known, and tell the health page how the jobs are."""
        from cartrita.http.health import register_component
        from cartrita.upkeep import application  # noqa: F401 - being imported is its use
        from cartrita.upkeep.jobs import standing

        register_component("beat", standing, needed=False)
