from django.apps import AppConfig


class WebApp(AppConfig):
    name = "cartrita.web"
    label = "web"
    verbose_name = "Web"
