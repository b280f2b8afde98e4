from django.apps import AppConfig


class HttpApp(AppConfig):
    name = "cartrita.http"
    label = "http"
    verbose_name = "HTTP"

    def ready(self) -> None:
        """Register the parts that every installation has."""
        from cartrita.http import connections, health

        connections.register()
        health.register_component("database", health.check_database)
        health.register_component("redis", health.check_redis)
