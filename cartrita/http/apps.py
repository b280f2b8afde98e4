from django.apps import AppConfig


class HttpApp(AppConfig):
    name = "cartrita.http"
    label = "http"
    verbose_name = "HTTP"
