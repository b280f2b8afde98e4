"""manage.py rotate_signing_key: let a new key sign tree heads from now on."""

import asyncio
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from cartrita.errors import CartritaError
from cartrita.eventstore import Sequencer, close_async
from cartrita.eventstore.heads import Signing, signing_alone
from cartrita.eventstore.signing import SETTING, begin_rotation, end_rotation, key_path


class Command(BaseCommand):
    help = (
        "Make a new key that signs tree heads, record its public part as an event, and let both keys sign "
        f"the head that hands over. Where {SETTING} is set, put the new key before the present one there "
        "first, with a comma."
    )

    def handle(self, *_args: Any, **_options: Any) -> None:
        try:
            # A process that does not know the new key yet must not sign the head that hands over.
            with signing_alone():
                rotation = begin_rotation()
                asyncio.run(_order())
                head = Signing().sign(pause=0)
            end_rotation()
        except CartritaError as error:
            raise CommandError(error.message, returncode=error.exit_code) from error
        self.stdout.write(f"New key:  {rotation.key}")
        if rotation.replaced is None:
            self.stdout.write(
                "The key before it is gone, and vouches for nothing: tell verifiers the new one"
            )
        else:
            self.stdout.write(f"Replaces: {rotation.replaced}")
            if head is not None:
                self.stdout.write(f"Both signed the tree head of {head.size} positions")
        if settings.SIGNING_KEY:
            self.stdout.write(f"Remove the former key from {SETTING}, and start every process with it anew")
        else:
            self.stdout.write(f"{key_path()} holds the new key alone: back it up")


async def _order() -> None:
    try:
        await Sequencer().order()
    finally:
        await close_async()
