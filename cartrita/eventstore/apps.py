from django.apps import AppConfig


class EventstoreApp(AppConfig):
    name = "cartrita.eventstore"
    label = "eventstore"
    verbose_name = "Event store"
