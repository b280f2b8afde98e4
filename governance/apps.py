from django.apps import AppConfig


class GovernanceApp(AppConfig):
    name = "governance"
    label = "governance"
    verbose_name = "Governance"

    def ready(self) -> None:
        """Register the checks."""
        from governance import checks  # noqa: F401 - registers them
