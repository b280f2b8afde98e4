"""manage.py signing_keys: print the public keys of the signed tree heads."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.errors import CartritaError
from cartrita.eventstore import signing


class Command(BaseCommand):
    help = (
        "Print every public key that signs or signed tree heads, the oldest first, as verifiers take it. "
        "Keep a copy where the database cannot be altered."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object on standard output")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            known = signing.known_keys()
            name = signing.key_name(signing.installation_id())
        except CartritaError as error:
            raise CommandError(error.message, returncode=error.exit_code) from error
        try:
            here = {signer.verifier_key for signer in signing.local_signers(name)}
            problem = None
        except signing.SigningKeyUnusable as error:
            here, problem = set(), error.message
        if options["json"]:
            keys = [{"verifier_key": str(key), "private_key_here": key in here} for key in known]
            self.stdout.write(json.dumps({"keys": keys, "problem": problem}))
            return
        for key in known:
            self.stdout.write(str(key))
        if not known:
            self.stderr.write("No tree head has been signed yet")
        if problem is not None:
            self.stderr.write(problem)
