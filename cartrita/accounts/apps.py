from django.apps import AppConfig


class AccountsApp(AppConfig):
    name = "cartrita.accounts"
    label = "accounts"
    verbose_name = "Accounts"
