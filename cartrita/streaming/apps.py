from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class StreamingApp(AppConfig):
    name = "cartrita.streaming"
    label = "streaming"
    verbose_name = "Streaming"

    def ready(self) -> None:
        autodiscover_modules("consumers")
