"""manage.py budgets: see, set, raise, close and export budgets, and check their balances."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, get_args
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from cartrita.accounts.queries import Caller, caller_of_email, member_by_address
from cartrita.accounts.region import zone
from cartrita.accounts.team_queries import team_named
from cartrita.errors import CartritaError
from cartrita.wording import counted
from governance.budget import Period, ScopeKind
from governance.commands import budgets as commands
from governance.commands.exports import record_export
from governance.queries.budget_history import PeriodBalance, Spending, periods, spending
from governance.queries.budget_table import COLUMNS, table_of
from governance.queries.budgets import BudgetStanding, Scope, budget, require_reader, scope_names, tree
from governance.queries.decisions import recount
from governance.spreadsheet import as_csv

# Periods, and decisions.
MOST_SHOWN = 10
FULL = 100


class Command(BaseCommand):
    """`budgets list`, `show ID`, `set`, `raise ID`, `close ID`, `export`, and `budgets --check`."""

    help = "See, set, raise, close and export budgets, or check their balances against the decisions."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--check", action="store_true", help="compare balances and label sets with the decisions"
        )
        parser.add_argument(
            "--user", metavar="EMAIL", help="who asks; else the administrator who joined first"
        )
        acts = parser.add_subparsers(dest="act")
        listed = acts.add_parser("list", help="Show the tree with its balances.")
        one = acts.add_parser("show", help="Show a budget, its periods, and what used most of it.")
        one.add_argument("budget_id", type=UUID, metavar="ID")
        export = acts.add_parser("export", help="Write all budgets with their balances as CSV.")
        for each in (listed, export):
            each.add_argument("--closed", action="store_true", help="also the closed ones")
        begin = acts.add_parser("set", help="Begin a budget, or write its terms anew.")
        begin.add_argument("name")
        begin.add_argument("--kind", dest="scope_kind", choices=get_args(ScopeKind), default="workspace")
        begin.add_argument(
            "--scope", default="", help="an id, a person's address, or the name of a team, agent or model"
        )
        begin.add_argument("--parent", dest="parent_id", type=UUID)
        begin.add_argument("--period", choices=get_args(Period), default="month")
        begin.add_argument("--time-zone", help="the workspace's where it is left out")
        begin.add_argument("--tokens", dest="limit_tokens", type=int)
        begin.add_argument(
            "--micros", dest="limit_micros", type=int, help="millionths of the currency's unit"
        )
        begin.add_argument("--currency", help="the workspace's where it is left out")
        begin.add_argument("--warn", dest="warn_percent", type=int, default=80, metavar="PERCENT")
        more = acts.add_parser("raise", help="Give a budget more.")
        more.add_argument("budget_id", type=UUID, metavar="ID")
        more.add_argument("--tokens", dest="limit_tokens", type=int)
        more.add_argument("--micros", dest="limit_micros", type=int)
        more.add_argument("--reason", required=True)
        close = acts.add_parser("close", help="End a budget.")
        close.add_argument("budget_id", type=UUID, metavar="ID")

    def handle(self, *_: Any, act: str | None, check: bool, user: str | None, **options: Any) -> None:
        if check:
            self._check()
            return
        if act is None:
            raise CommandError("Say list, show, set, raise, close, export or --check.", returncode=2)
        try:
            caller = caller_of_email(user)
            given = {name: options[name] for name in _OPTIONS[act]}
            if act == "set":
                given["scope"] = _scope(caller, given["scope_kind"], given["scope"])
                budget_id, _recorded = commands.set_budget(caller=caller, **given)
                self.stdout.write(str(budget_id))
            elif act == "raise":
                commands.raise_budget(caller=caller, **given)
            elif act == "close":
                commands.close_budget(caller=caller, **given)
            elif act == "show":
                self._show(caller, options["budget_id"])
            elif act == "export":
                self._export(caller, closed=options["closed"])
            else:
                self._list(caller, closed=options["closed"])
        except CartritaError as error:
            raise CommandError(error.message, returncode=error.exit_code) from None

    def _check(self) -> None:
        differences = recount()
        for difference in differences:
            self.stdout.write(str(difference))
        if differences:
            raise CommandError(f"{len(differences)} balances or label sets differ from the decisions.")
        self.stdout.write("Balances and label sets equal the sums over the decisions.")

    def _list(self, caller: Caller, *, closed: bool) -> None:
        require_reader(caller)
        roots = tree(caller.workspace_id, timezone.now(), closed=closed)
        self._write(roots, 0, scope_names(roots))

    def _write(self, nodes: Sequence[BudgetStanding], depth: int, names: Mapping[Scope, str]) -> None:
        for node in nodes:
            self.stdout.write(f"{'  ' * depth}{node.id}  {_line(node, names)}")
            self._write(node.children, depth + 1, names)

    def _show(self, caller: Caller, budget_id: UUID) -> None:
        now = timezone.now()
        one = budget(budget_id, caller, at=now)
        self.stdout.write(_line(one, scope_names([one])))
        for period in periods(one, limit=MOST_SHOWN).items:
            self.stdout.write(f"  {_period(period, one.time_zone)}")
        found = spending(one, at=now, limit=MOST_SHOWN)
        self._spenders(found, one)

    def _spenders(self, found: Spending, one: BudgetStanding) -> None:
        if found.spenders:
            self.stdout.write("Most went to:")
        for each in found.spenders:
            micros = f", {each.micros} micro-{one.currency}" if each.micros else ""
            held = " held back" if each.open else " estimated" if each.estimated else ""
            what = f"{each.subject_kind} {each.subject}".strip()
            self.stdout.write(f"  {each.decision_id}  {what}: {counted(each.tokens, 'token')}{micros}{held}")
        if found.refused:
            self.stdout.write(f"It refused {found.refused} act{'s' if found.refused > 1 else ''}.")

    def _export(self, caller: Caller, *, closed: bool) -> None:
        require_reader(caller)
        rows = table_of(tree(caller.workspace_id, timezone.now(), closed=closed))
        record_export(actor=caller.actor, what="budgets", workspaces=[caller.workspace_id] * len(rows))
        self.stdout.write(as_csv(COLUMNS, rows).decode("utf-8-sig"), ending="")


def _scope(caller: Caller, scope_kind: str, written: str) -> str:
    """Return the id of a person by address, or of a team by name; anything else as it is."""
    if scope_kind == "user" and "@" in written:
        return str(member_by_address(caller.workspace_id, written)["user_id"])
    if scope_kind == "team" and written:
        try:
            return str(UUID(written))
        except ValueError:
            return str(team_named(written, caller.workspace_id).id)
    return written


def _line(node: BudgetStanding, names: Mapping[Scope, str]) -> str:
    limits = []
    if node.limit_tokens is not None:
        limits.append(f"{node.left_tokens} of {counted(node.limit_tokens, 'token')} left")
    if node.limit_micros is not None:
        limits.append(f"{node.left_micros} of {node.limit_micros} micro-{node.currency} left")
    called = names.get((node.scope_kind, node.scope), "")
    if not called and node.scope_kind != "workspace":
        called = node.scope
    ends = f" until {_local(node.period_end, node.time_zone)}" if node.period_end else ""
    notes = " — low" if node.warning else ""
    if node.closed:
        notes = " — closed"
    elif node.runs_out_at and node.percent < FULL:
        notes += f", used up about {_local(node.runs_out_at, node.time_zone)} if it goes on like this"
    return (
        f"{node.name} ({node.scope_kind}{f' {called}' if called else ''}, {node.period}{ends}): "
        f"{', '.join(limits)}, {node.percent} % used{notes}"
    )


def _period(period: PeriodBalance, time_zone: str) -> str:
    tokens = counted(period.used_tokens, "token")
    if period.limit_tokens is not None:
        tokens = f"{period.used_tokens} of {counted(period.limit_tokens, 'token')}"
    money = f", {period.used_micros} micro-{period.currency}" if period.used_micros else ""
    if period.limit_micros is not None:
        money = f", {period.used_micros} of {period.limit_micros} micro-{period.currency}"
    when = "in total"
    if period.period_end is not None:
        when = f"{_local(period.period_start, time_zone)} – {_local(period.period_end, time_zone)}"
    held = f", {period.reserved_tokens} held back" if period.reserved_tokens else ""
    return f"{when}: {tokens}{money}{held}, {period.percent} %"


def _local(at: datetime, time_zone: str) -> str:
    return at.astimezone(zone(time_zone)).strftime("%Y-%m-%d %H:%M %Z")


_OPTIONS: dict[str, tuple[str, ...]] = {
    "list": (),
    "show": (),
    "export": (),
    "set": (
        "name",
        "scope_kind",
        "scope",
        "parent_id",
        "period",
        "time_zone",
        "limit_tokens",
        "limit_micros",
        "currency",
        "warn_percent",
    ),
    "raise": ("budget_id", "limit_tokens", "limit_micros", "reason"),
    "close": ("budget_id",),
}
