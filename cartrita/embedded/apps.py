from django.apps import AppConfig


class EmbeddedApp(AppConfig):
    name = "cartrita.embedded"
    label = "embedded"
    verbose_name = "Embedded start"
