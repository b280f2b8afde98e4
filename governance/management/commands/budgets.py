"""manage.py budgets: see, set, raise and close budgets, and check their balances."""

from collections.abc import Sequence
from typing import Any, get_args
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from cartrita.accounts.queries import Caller, caller_of_email
from cartrita.errors import CartritaError
from governance.budget import Period, ScopeKind
from governance.commands import budgets as commands
from governance.queries.budgets import BudgetStanding, require_reader, tree
from governance.queries.decisions import recount


class Command(BaseCommand):
    """`budgets list`, `set`, `raise ID`, `close ID`, and `budgets --check`."""

    help = "See, set, raise and close budgets, or check their balances against the recorded decisions."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--check", action="store_true", help="compare balances and label sets with the decisions"
        )
        parser.add_argument(
            "--user", metavar="EMAIL", help="who asks; else the administrator who joined first"
        )
        acts = parser.add_subparsers(dest="act")
        acts.add_parser("list", help="Show the tree with its balances.")
        begin = acts.add_parser("set", help="Begin a budget, or write its terms anew.")
        begin.add_argument("name")
        begin.add_argument("--kind", dest="scope_kind", choices=get_args(ScopeKind), default="workspace")
        begin.add_argument("--scope", default="", help="an id, or an agent's or model's name")
        begin.add_argument("--parent", dest="parent_id", type=UUID)
        begin.add_argument("--period", choices=get_args(Period), default="month")
        begin.add_argument("--time-zone", default="UTC")
        begin.add_argument("--tokens", dest="limit_tokens", type=int)
        begin.add_argument(
            "--micros", dest="limit_micros", type=int, help="millionths of the currency's unit"
        )
        begin.add_argument("--currency", default="USD")
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
            raise CommandError("Say list, set, raise, close or --check.", returncode=2)
        try:
            caller = caller_of_email(user)
            given = {name: options[name] for name in _OPTIONS[act]}
            if act == "set":
                budget_id, _recorded = commands.set_budget(caller=caller, **given)
                self.stdout.write(str(budget_id))
            elif act == "raise":
                commands.raise_budget(caller=caller, **given)
            elif act == "close":
                commands.close_budget(caller=caller, **given)
            else:
                self._list(caller)
        except CartritaError as error:
            raise CommandError(error.message) from None

    def _check(self) -> None:
        differences = recount()
        for difference in differences:
            self.stdout.write(str(difference))
        if differences:
            raise CommandError(f"{len(differences)} balances or label sets differ from the decisions.")
        self.stdout.write("Balances and label sets equal the sums over the decisions.")

    def _list(self, caller: Caller) -> None:
        require_reader(caller)
        self._write(tree(caller.workspace_id, timezone.now()), 0)

    def _write(self, nodes: Sequence[BudgetStanding], depth: int) -> None:
        for node in nodes:
            limits = []
            if node.limit_tokens is not None:
                limits.append(f"{node.left_tokens} of {node.limit_tokens} tokens left")
            if node.limit_micros is not None:
                limits.append(f"{node.left_micros} of {node.limit_micros} micro-{node.currency} left")
            self.stdout.write(
                f"{'  ' * depth}{node.id}  {node.name} ({node.scope_kind}, {node.period}): "
                f"{', '.join(limits)}, {node.percent} % used{' — low' if node.warning else ''}"
            )
            self._write(node.children, depth + 1)


_OPTIONS: dict[str, tuple[str, ...]] = {
    "list": (),
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
