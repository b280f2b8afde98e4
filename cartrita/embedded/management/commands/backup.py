"""manage.py backup: write the whole installation to one archive, and its keys to a file apart."""

import getpass
import json
import os
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from cartrita.embedded import backup


class Command(BaseCommand):
    help = (
        "Write the database, as of one moment and while everything goes on, to one archive. Sealed texts "
        "open only with the keys, which go to a file of their own: keep it elsewhere, and only the newest."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("target", nargs="?", type=Path, help="the archive's name, or a folder for it")
        parser.add_argument("--keys", type=Path, metavar="FILE", help="write the keys to FILE, sealed")
        parser.add_argument("--keys-only", type=Path, metavar="FILE", help="write the keys alone, as of now")
        parser.add_argument(
            "--passphrase-file", type=Path, metavar="FILE",
            help="its first line seals the keys; else CARTRITA_BACKUP_PASSPHRASE, else it is asked for",
        )  # fmt: skip
        parser.add_argument("--plain-keys", action="store_true", help="do not seal the file of keys")
        parser.add_argument(
            "--keep", type=int, default=0, metavar="N", help="of the archives in the folder keep the newest N"
        )
        parser.add_argument("--json", action="store_true", help="one JSON object on standard output")

    def handle(self, *_args: Any, **options: Any) -> None:
        target, keys, keys_only = options["target"], options["keys"], options["keys_only"]
        if (target is None) == (keys_only is None):
            raise CommandError("Name the archive (or a folder for it), or --keys-only FILE.")
        if options["keep"] < 0 or (options["keep"] and (target is None or not target.is_dir())):
            raise CommandError("--keep N goes with a folder, and N is at least 1.")
        passphrase = None
        if (keys or keys_only) and not options["plain_keys"]:
            passphrase = passphrase_from(options["passphrase_file"], again=True)
        if keys_only is not None:
            backup.back_up_keys(
                keys_only,
                owner_url=settings.DATABASE_BACKUP_URL,
                home=settings.HOME,
                passphrase=passphrase,
                now=timezone.now(),
            )
            self.stdout.write(
                json.dumps({"keys": str(keys_only)}) if options["json"] else f"Keys: {keys_only}"
            )
            return
        if keys is None:
            self.stderr.write("No --keys FILE: without the keys, no sealed text of this archive can be read.")
        made = backup.back_up(
            target,
            owner_url=settings.DATABASE_BACKUP_URL,
            home=settings.HOME,
            keys=keys,
            passphrase=passphrase,
            keep=options["keep"],
            now=timezone.now(),
            tell=self._tell,
        )
        self._tell_end()
        if options["json"]:
            self.stdout.write(json.dumps(made.as_dict()))
            return
        self.stdout.write(
            f"{made.archive}: {made.bytes} bytes, up to position {made.manifest.head} of epoch "
            f"{made.manifest.epoch}" + (f"; keys in {made.keys}" if made.keys else "")
        )
        for path in made.removed:
            self.stdout.write(f"removed {path}")

    def _tell(self, progress: str) -> None:
        if sys.stderr.isatty():
            self.stderr.write(f"\r{progress}", ending="")

    def _tell_end(self) -> None:
        if sys.stderr.isatty():
            self.stderr.write("")


def passphrase_from(file: Path | None, *, again: bool) -> str:
    """Return the passphrase of a file of keys: from a file, the environment, or whoever sits there."""
    if file is not None:
        try:
            found = file.read_text(encoding="utf-8").partition("\n")[0].strip()
        except OSError as error:
            raise CommandError(f"The passphrase's file {file} cannot be read: {error.strerror}.") from error
    elif "CARTRITA_BACKUP_PASSPHRASE" in os.environ:
        found = os.environ["CARTRITA_BACKUP_PASSPHRASE"]
    elif sys.stdin.isatty():
        found = getpass.getpass("Passphrase of the keys: ")
        if again and getpass.getpass("Once more: ") != found:
            raise CommandError("The two passphrases differ.")
    else:
        raise CommandError("Give the passphrase by --passphrase-file or CARTRITA_BACKUP_PASSPHRASE.")
    if not found:
        raise CommandError("The passphrase is empty.")
    return found
