"""`manage.py policy`: check policy files, and see and change the rules of a workspace."""

import json
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from cartrita.accounts.console import names_of
from cartrita.accounts.queries import Caller, caller_in_workspace, caller_of_email
from cartrita.errors import CartritaError, Conflict, NotAllowed
from cartrita.eventstore import RecordedEvent
from cartrita.wording import counted
from governance import cel
from governance.commands import policies as commands
from governance.commands.trials import try_set
from governance.example_report import as_json, as_junit, tested
from governance.examples import run_examples
from governance.policy import PolicyNotValid, PolicySet, load_policy
from governance.queries import policies as queries
from governance.queries.coverage import coverage, coverage_as_json, coverage_lines
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
            if name == "test":
                of_file.add_argument("--json", action="store_true", help="print one JSON object")
                of_file.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit's XML")
        commands.add_parser("names", help="List the names that conditions may read.")
        imported = commands.add_parser("import", help="Make the draft equal to a policy file.")
        imported.add_argument("file", help="a YAML file, or - for standard input")
        imported.add_argument("--activate", action="store_true", help="also put it in force")
        exported = commands.add_parser("export", help="Print a set as YAML.")
        exported.add_argument("hash", nargs="?", help="its hash; else the set in force")
        draft = commands.add_parser("draft", help="Print the draft, what is wrong with it, and what waits.")
        draft.add_argument("--text", action="store_true", help="print its YAML alone")
        versions = commands.add_parser("versions", help="List the sets that were in force, newest first.")
        propose = commands.add_parser("propose", help="Ask a second person for leave to put a set in force.")
        approve = commands.add_parser("approve", help="Give that leave, as the second person.")
        reject = commands.add_parser("reject", help="Refuse a set that is proposed or approved.")
        withdraw = commands.add_parser("withdraw", help="Take back what you proposed.")
        shadow = commands.add_parser("shadow", help="Evaluate a set beside every decision, unenforced.")
        unshadow = commands.add_parser("unshadow", help="Evaluate no set beside decisions any more.")
        report = commands.add_parser("shadow-report", help="Print what the set in shadow would have changed.")
        activate = commands.add_parser("activate", help="Put a set in force.")
        stage = commands.add_parser("stage", help="Print how far a set is, with who and when.")
        tries = commands.add_parser("try", help="Decide a past request under a set, beside what was decided.")
        tries.add_argument("decision", type=_uuid, help="the id of a decision")
        covered = commands.add_parser("coverage", help="Tell which rules in force never did anything.")
        for name, meaning in (("since", "default: 30 days before"), ("until", "excluded; default: now")):
            covered.add_argument(f"--{name}", type=_time, metavar="TIME", help=meaning)
        covered.add_argument("--json", action="store_true", help="print one JSON object")
        for subparser in (propose, shadow, activate, stage, tries):
            subparser.add_argument("hash", nargs="?", help="a proposed or earlier set; else the draft")
        for subparser in (approve, reject, withdraw):
            subparser.add_argument("hash", nargs="?", help="the set; else the one that is proposed")
        report.add_argument("hash", nargs="?", help="a set; else the one that is in shadow, or was last")
        report.add_argument(
            "--days",
            type=int,
            default=30,
            choices=range(1, 367),
            metavar="DAYS",
            help="how many days back (30)",
        )
        for subparser in (imported, propose, approve, shadow, activate):
            subparser.add_argument("--note", default="", help="why")
        reject.add_argument("--reason", required=True, help="why")
        unshadow.add_argument("--reason", default="", help="why")
        of_person = (imported, exported, draft, versions, propose, approve, reject, withdraw)
        for subparser in (*of_person, shadow, unshadow, report, activate, stage, tries, covered):
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
            getattr(self, f"_{command.replace('-', '_')}")(options)
        except (NotAllowed, Conflict) as error:
            raise CommandError(error.message, returncode=REFUSED) from None
        except CartritaError as error:
            raise CommandError(error.message, returncode=BAD_INPUT) from None

    def _check(self, options: dict[str, Any]) -> None:
        policy = self._tried(options["file"])
        examples = sum(len(rule.examples) for rule in policy.rules)
        self.stdout.write(
            f"{options['file']}: {counted(len(policy.rules), 'rule')}, {counted(examples, 'example')}, "
            f"hash {policy.content_hash}"
        )

    def _test(self, options: dict[str, Any]) -> None:
        file = str(options["file"])
        read: PolicySet | PolicyNotValid
        try:
            read = load_policy(_read(file), file)
        except PolicyNotValid as error:
            read = error
        examples = [] if isinstance(read, PolicyNotValid) else tested(read)
        if options["junit"] is not None:
            options["junit"].write_bytes(as_junit(file, read, examples))
        if options["json"]:
            self.stdout.write(json.dumps(as_json(file, read, examples)))
        if isinstance(read, PolicyNotValid):
            raise read
        if not options["json"]:
            for one in examples:
                self.stdout.write(str(one))
        for warning in read.warnings:
            self.stderr.write(f"{file}:{warning}")
        failed = sum(not one.holds for one in examples)
        of = _counted(len(examples), "example")
        if not options["json"]:
            rules, held = _counted(len(read.rules), "rule"), len(examples) - failed
            self.stdout.write(f"{of} of {rules}: {held} as expected{f', {failed} not' if failed else ''}")
        if failed:
            raise CommandError(f"{file}: {failed} of {of} failed.", returncode=FAILED)

    def _coverage(self, options: dict[str, Any]) -> None:
        found = coverage(_caller(options).workspace_id, since=options["since"], until=options["until"])
        if options["json"]:
            self.stdout.write(json.dumps(coverage_as_json(found)))
            return
        for line in coverage_lines(found):
            self.stdout.write(line)

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

    def _approve(self, options: dict[str, Any]) -> None:
        caller, policy_hash = _caller_and_proposed(options)
        recorded = commands.approve(
            workspace_id=caller.workspace_id, policy_hash=policy_hash, caller=caller, note=options["note"]
        )
        self._said(recorded, caller)

    def _reject(self, options: dict[str, Any]) -> None:
        caller, policy_hash = _caller_and_proposed(options)
        recorded = commands.reject(
            workspace_id=caller.workspace_id, policy_hash=policy_hash, caller=caller, reason=options["reason"]
        )
        self._said(recorded, caller)

    def _withdraw(self, options: dict[str, Any]) -> None:
        caller, policy_hash = _caller_and_proposed(options)
        recorded = commands.withdraw_proposal(
            workspace_id=caller.workspace_id, policy_hash=policy_hash, caller=caller
        )
        self._said(recorded, caller)

    def _shadow(self, options: dict[str, Any]) -> None:
        caller = _caller(options)
        recorded = commands.shadow(
            workspace_id=caller.workspace_id,
            caller=caller,
            policy_hash=options["hash"],
            note=options["note"],
        )
        self._said(recorded, caller)

    def _unshadow(self, options: dict[str, Any]) -> None:
        caller = _caller(options)
        recorded = commands.end_shadow(
            workspace_id=caller.workspace_id, caller=caller, reason=options["reason"]
        )
        self._said(recorded, caller)

    def _shadow_report(self, options: dict[str, Any]) -> None:
        since = timezone.now() - timedelta(days=options["days"])
        report = queries.shadow_report(_caller(options).workspace_id, since, policy_hash=options["hash"])
        if report is None:
            raise CommandError("No set was in shadow here yet.", returncode=BAD_INPUT)
        hours = report.watched.total_seconds() / 3600
        self.stdout.write(f"set {report.policy_hash}, in shadow for {hours:.1f} hours of that time")
        self.stdout.write(
            f"{_counted(report.decisions, 'decision')}: {report.changed} would have another outcome, "
            f"{report.other_rule} the same by another rule, {report.not_evaluated} not evaluated"
        )
        self.stdout.write(
            f"approvals: {report.approvals_before} asked for, {report.approvals_after} under this set "
            f"({report.approvals_a_day:+g} a day)"
        )
        if report.unread:
            self.stdout.write(
                f"answers that leave while they are written have no text yet: {', '.join(report.unread)} "
                "said nothing of it"
            )
        for cell in report.matrix:
            mark = " " if cell.before == cell.after else "*"
            self.stdout.write(f"{mark} {cell.before:9}-> {cell.after:9}{cell.count:8}")
        for change in report.by_rule:
            now = f"{change.after} by {change.shadow_rule}"
            self.stdout.write(f"{change.count:8}  {change.before} by {change.rule} -> {now}")
        for about in report.by_tool:
            self.stdout.write(f"{about.changed:8} of {about.count} about {about.name}")
        for each in report.examples:
            self.stdout.write(
                f"{each.decision_id}  {each.created_at:%Y-%m-%d %H:%M}  {each.name}: "
                f"{each.before} by {each.rule} -> {each.after} by {each.shadow_rule}"
            )

    def _stage(self, options: dict[str, Any]) -> None:
        found = queries.stage(_caller(options).workspace_id, options["hash"])
        names = names_of(filter(None, (each.by for each in found)))
        for each in found:
            when = f"{each.at:%Y-%m-%d %H:%M}" if each.at else ""
            by = f"by {names[each.by]}" if each.by else ""
            parts = (f"{each.name.replace('_', '-'):12}{each.state:8}", when, by, each.note)
            self.stdout.write("  ".join(filter(None, parts)).rstrip())

    def _try(self, options: dict[str, Any]) -> None:
        caller = _caller(options)
        tried = try_set(
            workspace_id=caller.workspace_id,
            decision_id=options["decision"],
            policy_hash=options["hash"],
            caller=caller,
        )
        for called, verdict in (("recorded", tried.recorded), ("now", tried.new)):
            self.stdout.write(f"{called + ':':10}{verdict.outcome} by {verdict.rule}: {verdict.reason}")

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
            where = "in shadow " if one.in_shadow else ""
            self.stdout.write(
                f"{one.decision_id}: {where}{one.recorded.outcome} by {one.recorded.rule}, "
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
        for leave in draft.approved:
            self.stdout.write(f"approved: {leave.policy_hash} by {leave.by}")
        if draft.shadow:
            self.stdout.write(f"shadow:   {draft.shadow.policy_hash} by {draft.shadow.by}")


def _caller(options: dict[str, Any]) -> Caller:
    caller = caller_of_email(options["user"])
    if options["workspace"] is None:
        return caller
    found = caller_in_workspace(caller.user_id, options["workspace"])
    if found is None:
        raise NotAllowed(f"This person does not belong to the workspace {options['workspace']}.")
    return found


def _caller_and_proposed(options: dict[str, Any]) -> tuple[Caller, str]:
    """Return who asks, and the hash that is meant: the given one, or the set that is proposed."""
    caller = _caller(options)
    if options["hash"] is not None:
        return caller, options["hash"]
    draft = queries.draft(caller.workspace_id)
    if draft.proposal is not None:
        return caller, draft.proposal.policy_hash
    if len(draft.approved) == 1:
        return caller, draft.approved[0].policy_hash
    raise CommandError("Nothing is proposed; name the set by its hash.", returncode=BAD_INPUT)


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} cannot be read as UTF-8 text: {error}", returncode=BAD_INPUT) from None


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no time, such as 2026-03-01T12:00:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no id") from None


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
