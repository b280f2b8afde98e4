from typing import Any

from django.core.management.base import BaseCommand

from cartrita.embedded import starter


class Command(BaseCommand):
    """Provide the starter content."""

    help = "Make what is missing of the starter workspace, its two people and its sample documents."

    def handle(self, *args: Any, **options: Any) -> None:
        """Provide it and print sign-in links, which work once."""
        starter.provide()
        for who, address in starter.sign_in_links():
            self.stdout.write(f"{who}: {address}")
