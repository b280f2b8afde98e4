"""`manage.py policy`: check policy files, and see and change the rules of a workspace."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.accounts.queries import Caller, caller_in_workspace, caller_of_email
from cartrita.errors import CartritaError, Conflict, NotAllowed
from cartrita.eventstore import RecordedEvent
from governance import cel
from governance.commands import policies as commands
from governance.examples import run_examples
from governance.policy import PolicySet, load_policy
from governance.queries import policies as queries
from governance.queries.decisions import redecide_all
from governance.queries.policies import Draft

FAILED, BAD_INPUT, REFUSED = 1, 2, 3


class Command(BaseCommand):
    """Subcommands, each a method of its name."""

    help = (
        "Check policy files, and see and change the rules of a workspace. Exit code 1: examples or decisions "
        "differ, 2: bad input, 3: refused; the reason is on standard error."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 # Django's own form; a file is checked without a database

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True)
        for name, meaning in (
            ("check", "Read and compile a policy file, and run its examples."),
            ("test", "Run the examples of a policy file."),
        ):
            of_file = commands.add_parser(name, help=meaning)
            of_file.add_argument(
                "file",
                nargs="?",
                type=Path,
                default=Path(settings.POLICY_FILE),
                help="a YAML file; else this installation's",
            )
        commands.add_parser("names", help="List the names that conditions may read.")
        imported = commands.add_parser("import", help="Make the draft equal to a policy file.")
        imported.add_argument("file", help="a YAML file, or - for standard input")
        imported.add_argument("--activate", action="store_true", help="also put it in force")
        exported = commands.add_parser("export", help="Print a set as YAML.")
        exported.add_argument("hash", nargs="?", help="its hash; else the set in force")
        draft = commands.add_parser("draft", help="Print the draft, what is wrong with it, and what waits.")
        draft.add_argument("--text", action="store_true", help="print its YAML alone")
        versions = commands.add_parser("versions", help="List the sets that were in force, newest first.")
        propose = commands.add_parser("propose", help="Ask a second person to put a set in force.")
        activate = commands.add_parser("activate", help="Put a set in force.")
        for subparser in (propose, activate):
            subparser.add_argument("hash", nargs="?", help="a proposed or earlier set; else the draft")
        for subparser in (imported, propose, activate):
            subparser.add_argument("--note", default="", help="why")
        for subparser in (imported, exported, draft, versions, propose, activate):
            subparser.add_argument(
                "--user", metavar="EMAIL", help="act as this person (default: the first administrator)"
            )
            subparser.add_argument(
                "--workspace", type=_uuid, metavar="ID", help="default: the one that the person joined first"
            )
        again = commands.add_parser("redecide", help="Decide all recorded decisions again and compare.")
        again.add_argument("--session", type=_uuid, metavar="ID", help="only this session's")

    def handle(self, *_: Any, command: str, **options: Any) -> None:
        try:
            getattr(self, f"_{command}")(options)
        except (NotAllowed, Conflict) as error:
            raise CommandError(error.message, returncode=REFUSED) from None
        except CartritaError as error:
            raise CommandError(error.message, returncode=BAD_INPUT) from None

    def _check(self, options: dict[str, Any]) -> None:
        policy = self._tried(options["file"])
        examples = sum(len(rule.examples) for rule in policy.rules)
        self.stdout.write(
            f"{options['file']}: {len(policy.rules)} rules, {examples} examples, hash {policy.content_hash}"
        )

    def _test(self, options: dict[str, Any]) -> None:
        policy = self._tried(options["file"])
        for rule in policy.rules:
            self.stdout.write(f"ok  {rule.name}: {_counted(len(rule.examples), 'example')}")

    def _names(self, _: dict[str, Any]) -> None:
        for name, (kind, meaning) in cel.VARIABLES.items():
            self.stdout.write(f"{name:34}{kind.name():24}{meaning}")

    def _import(self, options: dict[str, Any]) -> None:
        text = _read(options["file"])
        source = "standard input" if options["file"] == "-" else options["file"]
        load_policy(text, source)  # its problems name the file
        caller = _caller(options)
        recorded = commands.import_policy(
            workspace_id=caller.workspace_id,
            text=text,
            caller=caller,
            activate=options["activate"],
            note=options["note"],
        )
        self._said(recorded, caller)

    def _export(self, options: dict[str, Any]) -> None:
        self.stdout.write(queries.export_text(_caller(options).workspace_id, options["hash"]), ending="")

    def _draft(self, options: dict[str, Any]) -> None:
        draft = queries.draft(_caller(options).workspace_id)
        if options["text"]:
            self.stdout.write(draft.text, ending="")
        else:
            self._show(draft)

    def _versions(self, options: dict[str, Any]) -> None:
        workspace_id, cursor = _caller(options).workspace_id, None
        while True:
            page = queries.versions(workspace_id, cursor=cursor)
            for row in page.items:
                mark = "*" if row.active else " "
                by = row.by if row.alone or not row.proposed_by else f"{row.proposed_by}, {row.by}"
                self.stdout.write(
                    f"{mark} {row.activated_at:%Y-%m-%d %H:%M} {row.policy_hash} {row.policy} by {by}"
                )
            cursor = page.next_cursor
            if cursor is None:
                return

    def _propose(self, options: dict[str, Any]) -> None:
        caller = _caller(options)
        recorded = commands.propose(
            workspace_id=caller.workspace_id,
            caller=caller,
            policy_hash=options["hash"],
            note=options["note"],
        )
        self._said(recorded, caller)

    def _activate(self, options: dict[str, Any]) -> None:
        caller = _caller(options)
        policy_hash = options["hash"]
        if policy_hash is None:
            draft = queries.draft(caller.workspace_id)
            if draft.problems:
                raise CommandError("\n".join(map(str, draft.problems)), returncode=BAD_INPUT)
            policy_hash = draft.policy_hash
        recorded = commands.activate(
            workspace_id=caller.workspace_id, policy_hash=policy_hash, caller=caller, note=options["note"]
        )
        self._said(recorded, caller)

    def _redecide(self, options: dict[str, Any]) -> None:
        count, differences = redecide_all(options["session"])
        for one in differences:
            self.stdout.write(
                f"{one.decision_id}: {one.recorded.outcome} by {one.recorded.rule}, "
                f"now {one.now.outcome} by {one.now.rule}"
            )
        if differences:
            raise CommandError(f"{len(differences)} of {count} decisions differ.", returncode=FAILED)
        self.stdout.write(f"{_counted(count, 'decision')} made again, 0 differences.")

    def _tried(self, file: Path) -> PolicySet:
        """Return the compiled file when all its examples hold; warnings go to standard error."""
        policy = load_policy(_read(str(file)), str(file))
        for warning in policy.warnings:
            self.stderr.write(f"{file}:{warning}")
        failures = run_examples(policy)
        if failures:
            raise CommandError("\n".join(f"{file}: {failure}" for failure in failures), returncode=FAILED)
        return policy

    def _said(self, recorded: Sequence[RecordedEvent], caller: Caller) -> None:
        self.stdout.write(f"{_counted(len(recorded), 'event')} recorded.")
        self._show(queries.draft(caller.workspace_id))

    def _show(self, draft: Draft) -> None:
        for problem in (*draft.problems, *draft.warnings):
            self.stderr.write(str(problem))
        for failure in draft.failures:
            self.stderr.write(str(failure))
        self.stdout.write(f"in force: {draft.active_hash}")
        hash_or_not = draft.policy_hash or "has problems"
        self.stdout.write(f"draft:    {hash_or_not} ({draft.policy}, {_counted(len(draft.rules), 'rule')})")
        if draft.changed:
            self.stdout.write(f"changed:  {', '.join(draft.changed)}")
        if draft.proposal:
            self.stdout.write(f"proposed: {draft.proposal.policy_hash} by {draft.proposal.by}")


def _caller(options: dict[str, Any]) -> Caller:
    caller = caller_of_email(options["user"])
    if options["workspace"] is None:
        return caller
    found = caller_in_workspace(caller.user_id, options["workspace"])
    if found is None:
        raise NotAllowed(f"This person does not belong to the workspace {options['workspace']}.")
    return found


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} cannot be read as UTF-8 text: {error}", returncode=BAD_INPUT) from None


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no id") from None


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
