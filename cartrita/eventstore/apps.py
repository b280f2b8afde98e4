from django.apps import AppConfig
from django.conf import settings


class EventstoreApp(AppConfig):
    name = "cartrita.eventstore"
    label = "eventstore"
    verbose_name = "Event store"

    def ready(self) -> None:
        """Load every event type and projection, and refuse to start when they contradict one another."""
        from cartrita.eventstore import registry

        registry.load_modules([*settings.EVENT_MODULES, *settings.EVENT_SUBSCRIBERS])
        registry.check_event_types()
