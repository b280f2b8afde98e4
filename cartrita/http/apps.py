from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks

SHORTEST_METRICS_TOKEN = 16


def check_metrics_token(**_: Any) -> list[checks.CheckMessage]:
    """Refuse a token that can be guessed."""
    if not settings.METRICS_TOKEN or len(settings.METRICS_TOKEN) >= SHORTEST_METRICS_TOKEN:
        return []
    told = f"CARTRITA_METRICS_TOKEN has fewer than {SHORTEST_METRICS_TOKEN} characters."
    return [checks.Error(told, hint="Make one with `openssl rand -hex 32`.", id="cartrita_http.E001")]


class HttpApp(AppConfig):
    name = "cartrita.http"
    label = "http"
    verbose_name = "HTTP"

    def ready(self) -> None:
        """Register the parts that every installation has."""
        from cartrita.eventstore import heads
        from cartrita.http import connections, health
        from cartrita.http.fields import refuse_other_types

        refuse_other_types()
        connections.register()
        health.register_component("database", health.check_database)
        health.register_component("redis", health.check_redis)
        health.register_component("tree heads", heads.standing, needed=False)
        checks.register(check_metrics_token)
