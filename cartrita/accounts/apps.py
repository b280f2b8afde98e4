from django.apps import AppConfig


class AccountsApp(AppConfig):
    name = "cartrita.accounts"
    label = "accounts"
    verbose_name = "Accounts"

    def ready(self) -> None:
        """Let drf-spectacular find how callers are known."""
        from cartrita.accounts import openapi  # noqa: F401
