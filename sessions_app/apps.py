from django.apps import AppConfig


class SessionsApp(AppConfig):
    name = "sessions_app"
    label = "sessions_app"
    verbose_name = "Sessions"
