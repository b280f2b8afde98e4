from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class ToolsApp(AppConfig):
    name = "cartrita.tools"
    label = "tools"
    verbose_name = "Tools"

    def ready(self) -> None:
        autodiscover_modules("tools")
