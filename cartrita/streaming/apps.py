from django.apps import AppConfig


class StreamingApp(AppConfig):
    name = "cartrita.streaming"
    label = "streaming"
    verbose_name = "Streaming"
