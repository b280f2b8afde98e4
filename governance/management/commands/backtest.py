"""manage.py backtest: decide the whole history again under another set of rules, and see what of it."""

import asyncio
import json
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from cartrita.accounts.queries import Caller, caller_in_workspace, caller_of_email
from cartrita.errors import BadInput, CartritaError, Conflict, NotAllowed
from cartrita.eventstore import Sequencer
from governance.backtest import runner
from governance.commands import backtests as commands
from governance.queries import backtests as queries
from governance.queries.backtests import Standing
from governance.visible_text import shown

FAILED, BAD_INPUT, REFUSED = 1, 2, 3
LOOK_SECONDS = 0.25
AGAIN_SECONDS = 1.0
MONEY = 1_000_000


class Command(BaseCommand):
    """`backtest run`, `list`, `show ID` and `cancel ID`."""

    help = (
        "Decide all recorded decisions again under another set of rules. Exit code 1: the back-test failed, "
        "was cancelled or is not to be trusted, 2: bad input, 3: refused; the reason is on standard error."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True)
        run = acts.add_parser(
            "run", help="Carry one out here, or follow the server that does; Ctrl-C cancels it."
        )
        of = run.add_mutually_exclusive_group()
        of.add_argument("--hash", dest="policy_hash", help="a proposed or earlier set; else the draft")
        of.add_argument("--file", metavar="FILE", help="a policy file, or - for standard input")
        run.add_argument("--since", type=_time, metavar="TIME", help="only decisions recorded from then on")
        run.add_argument("--until", type=_time, metavar="TIME", help="only decisions recorded before then")
        run.add_argument("--session", type=_uuid, metavar="ID", help="only this session's")
        run.add_argument("--no-wait", action="store_true", help="leave it to the server")
        run.add_argument("--json", action="store_true", help="print the whole report")
        listed = acts.add_parser("list", help="List the newest ones.")
        show = acts.add_parser("show", help="Print the report of one.")
        show.add_argument("--json", action="store_true", help="the whole of it")
        cancel = acts.add_parser("cancel", help="Stop one.")
        for of_one in (show, cancel):
            of_one.add_argument("back_test_id", type=_uuid, metavar="ID")
        for each in (run, listed, show, cancel):
            each.add_argument(
                "--user", metavar="EMAIL", help="act as this person (default: the first administrator)"
            )
            each.add_argument(
                "--workspace", type=_uuid, metavar="ID", help="default: the one that the person joined first"
            )

    def handle(self, *_: Any, act: str, **options: Any) -> None:
        try:
            caller = _caller(options)
            getattr(self, f"_{act}")(caller, options)
        except (NotAllowed, Conflict) as error:
            raise CommandError(error.message, returncode=REFUSED) from None
        except CartritaError as error:
            raise CommandError(error.message, returncode=BAD_INPUT) from None

    def _run(self, caller: Caller, options: dict[str, Any]) -> None:
        text = None if options["file"] is None else _read(options["file"])
        back_test_id, new = commands.request_back_test(
            workspace_id=caller.workspace_id,
            caller=caller,
            policy_hash=options["policy_hash"],
            text=text,
            source=options["file"] or "draft",
            since=options["since"],
            until=options["until"],
            session_id=options["session"],
        )
        if not new:
            self.stderr.write(f"{back_test_id} is the same one, and not done yet.")
        if options["no_wait"]:
            self.stdout.write(str(back_test_id))
            return
        try:
            standing = self._carried_out(back_test_id, caller)
        except KeyboardInterrupt:
            commands.cancel_back_test(back_test_id=back_test_id, caller=caller)
            standing = queries.back_test(back_test_id, caller)
        self._say(standing, as_json=options["json"])

    def _carried_out(self, back_test_id: UUID, caller: Caller) -> Standing:
        """Carry out what waits, or follow whoever does, until this one has ended."""
        stopping = threading.Event()
        carrying = threading.Thread(target=_carry_out, args=(stopping,), name="backtest", daemon=True)
        carrying.start()
        said, begun = "", time.monotonic()
        try:
            while (standing := queries.back_test(back_test_id, caller)).row.status == "requested":
                line = _progress(standing)
                if self.stderr.isatty() and line != said:
                    self.stderr.write(f"\r{line:60}", ending="")
                    self.stderr.flush()
                    said = line
                time.sleep(LOOK_SECONDS)
                if not carrying.is_alive() and time.monotonic() > begun + AGAIN_SECONDS:
                    # Somebody else carries one out, or did a moment ago.
                    begun = time.monotonic()
                    carrying = threading.Thread(target=_carry_out, args=(stopping,), daemon=True)
                    carrying.start()
        finally:
            stopping.set()
            carrying.join()
        if said:
            self.stderr.write("")
        return standing

    def _list(self, caller: Caller, _: dict[str, Any]) -> None:
        for standing in queries.back_tests(caller).items:
            row = standing.row
            said = {
                "requested": _progress(standing),
                "failed": f"failed: {shown(row.message)}",
                "cancelled": "cancelled",
                "completed": f"{row.changed} of {row.decisions} change, in {row.sessions_changed} sessions"
                + (f"; NOT TO BE TRUSTED: {row.differences} differences" if row.differences else ""),
            }[row.status]
            self.stdout.write(
                f"{row.id}  {row.requested_at:%Y-%m-%d %H:%M}  {shown(row.policy)} {row.policy_hash[:12]}"
                f"  {said}"
            )

    def _show(self, caller: Caller, options: dict[str, Any]) -> None:
        self._say(queries.back_test(options["back_test_id"], caller), as_json=options["json"])

    def _cancel(self, caller: Caller, options: dict[str, Any]) -> None:
        commands.cancel_back_test(back_test_id=options["back_test_id"], caller=caller)
        self.stdout.write("cancelled")

    def _say(self, standing: Standing, *, as_json: bool) -> None:
        row = standing.row
        if row.status == "failed":
            raise CommandError(f"{row.code}: {row.message}", returncode=FAILED)
        if row.status == "cancelled":
            raise CommandError("It was cancelled; there is no report.", returncode=FAILED)
        found = queries.report(row)
        if as_json:
            self.stdout.write(json.dumps(found, indent=2))
        else:
            for line in lines(found):
                self.stdout.write(line)
        if not found["trustworthy"]:
            raise CommandError(
                f"{row.differences} decisions come out otherwise under their own set: do not trust this.",
                returncode=FAILED,
            )


def lines(found: dict[str, Any]) -> list[str]:
    """Return a report for a terminal."""
    decisions, approvals, sessions = found["decisions"], found["approvals"], found["sessions"]
    seconds = found["milliseconds"] / 1000
    written = [
        f"back-test {found['back_test_id']} of {shown(found['policy'])} {found['policy_hash'][:12]}",
        (
            f"{decisions['looked_at']} decisions in {seconds:.1f} s, {found['decisions_a_second']} a second, "
            f"{found['processes']} process{'es' if found['processes'] > 1 else ''}, "
            f"{found['peak_memory_bytes'] // 2**20} MiB"
        ),
        (
            f"self-check: {found['self_check']['decided']} decided again under their own set, "
            f"{found['self_check']['differences']} differences"
        ),
    ]
    if decisions["not_redecidable"]:
        written.append(
            f"not re-decidable: {decisions['erased']} erased, "
            f"{decisions['policy_missing']} without their set, {decisions['unreadable']} not readable"
        )
    written += [
        "",
        (
            f"{found['changed']} verdicts change, {sessions['changed']} of {sessions['all']} sessions take "
            f"another course; {decisions['not_reached']} decisions after that are not reached"
        ),
    ]
    written += [
        f"  {old:9} -> {new:9} {many:9}"
        for old, row in found["matrix"].items()
        for new, many in row.items()
        if old != new
    ]
    if found["by_rule"]:
        written += ["", "by rule"]
        written += [
            f"  {row['decisions']:9}  {row['old']} by {row['old_rule']} -> {row['new']} by {row['new_rule']}"
            for row in found["by_rule"][:20]
        ]
    written += [
        "",
        (
            f"approvals: {approvals['before_a_day']} a day before, {approvals['after_a_day']} after "
            f"({approvals['more_a_day']:+} a day)"
        ),
        (
            f"blocked: {_amounts(found['spend']['blocked'])}; "
            f"not reached: {_amounts(found['spend']['not_reached'])}"
        ),
    ]
    if found["throttles"]["worked_out"]:
        rules = ", ".join(found["throttles"]["worked_out"])
        written.append(f"buckets worked out from recorded times: {rules}")
    if found["first_changes"]:
        written += ["", "first changes"]
        written += [
            f"  {one['decision_id']}  {one['at'][:19]}  "
            f"{one['tool'] or one['model'] or one['subject_kind']}: {one['old']} by {one['old_rule']} -> "
            f"{one['new']} by {one['new_rule']}, {one['not_reached']} after it"
            for one in found["first_changes"][:10]
        ]
    return [shown(line) for line in written]


def _amounts(spend: dict[str, Any]) -> str:
    money = [f"{micros / MONEY:.2f} {currency}" for currency, micros in spend["micros"].items()]
    return ", ".join([f"{spend['tokens']} tokens", *money])


def _progress(standing: Standing) -> str:
    if standing.phase == "queued":
        return "waits for its turn"
    if not standing.total:
        return "counting"
    return f"{standing.phase}: {standing.decisions} of {standing.total} ({standing.percent} %)"


def _carry_out(stopping: threading.Event) -> None:
    try:
        # Without a server nobody has ordered what was decided last.
        asyncio.run(Sequencer().order())
        runner.run_next(stopping)
    finally:
        connection.close()


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
        raise BadInput(f"{file} cannot be read: {error}", field="file") from None


def _time(written: str) -> datetime:
    return datetime.fromisoformat(written)


def _uuid(written: str) -> UUID:
    return UUID(written)
