"""Check a policy file, or list the names that conditions may read."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from governance import cel
from governance.examples import run_examples
from governance.policy import PolicyNotValid, load_policy


class Command(BaseCommand):
    """`policy check FILE` and `policy names`."""

    help = "Check a policy file and run its examples, or list the names that conditions may read."
    requires_system_checks: list[str] = []  # noqa: RUF012 # Django's own form; a file is checked without a database

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True)
        check = commands.add_parser("check", help="Read, compile and try a policy file.")
        check.add_argument(
            "file",
            nargs="?",
            type=Path,
            default=Path(settings.POLICY_FILE),
            help="a YAML file; else this installation's",
        )
        commands.add_parser("names", help="List the names that conditions may read.")

    def handle(self, *_: Any, command: str, file: Path | None = None, **__: Any) -> None:
        if command == "names" or file is None:
            for name, (kind, meaning) in cel.VARIABLES.items():
                self.stdout.write(f"{name:34}{kind.name():24}{meaning}")
            return
        try:
            policy = load_policy(file.read_text(encoding="utf-8"), str(file))
        except PolicyNotValid as error:
            raise CommandError(error.message, returncode=2) from None
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{file} cannot be read as UTF-8 text: {error}", returncode=2) from None
        for warning in policy.warnings:
            self.stderr.write(f"{file}:{warning}")
        failures = run_examples(policy)
        if failures:
            raise CommandError("\n".join(f"{file}: {failure}" for failure in failures), returncode=1)
        examples = sum(len(rule.examples) for rule in policy.rules)
        self.stdout.write(
            f"{file}: {len(policy.rules)} rules, {examples} examples, hash {policy.content_hash}"
        )
