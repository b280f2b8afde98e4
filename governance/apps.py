from django.apps import AppConfig


class GovernanceApp(AppConfig):
    name = "governance"
    label = "governance"
    verbose_name = "Governance"
