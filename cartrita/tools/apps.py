from django.apps import AppConfig


class ToolsApp(AppConfig):
    name = "cartrita.tools"
    label = "tools"
    verbose_name = "Tools"
