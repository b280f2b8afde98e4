from django.apps import AppConfig


class InteropApp(AppConfig):
    name = "cartrita.interop"
    label = "interop"
    verbose_name = "Other programs"
