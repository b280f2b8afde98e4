from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class ToolsApp(AppConfig):
    name = "cartrita.tools"
    label = "tools"
    verbose_name = "Tools"

    def ready(self) -> None:
        autodiscover_modules("tools")
        # Models can be imported no sooner than here.
        from cartrita.tools.runner import check_arguments
        from governance.commands.approvals import register_argument_check

        register_argument_check(check_arguments)
