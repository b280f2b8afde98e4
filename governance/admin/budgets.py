"""Budgets in the admin: the tree with what is used and left, where it went, and the forms that set, raise and
close.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, get_args
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from cartrita.accounts.commands import change_workspace_settings
from cartrita.accounts.console import BUDGET_ROLES, TEAM_ROLES, names_of
from cartrita.accounts.models import Membership, Team, TeamMember, User, Workspace
from cartrita.accounts.queries import Caller
from cartrita.accounts.region import zone
from cartrita.accounts.team_queries import team_named
from cartrita.errors import CartritaError
from cartrita.eventstore.admin import as_uuid
from governance.admin.pages import (
    MICROS,
    CommandForm,
    ConsolePage,
    events_behind,
    plain,
    put_in,
    row_address,
)
from governance.budget import Period, ScopeKind
from governance.commands import budgets as commands
from governance.commands.exports import record_export
from governance.known_scopes import known_names
from governance.models import Budget
from governance.queries.budget_history import PeriodBalance, Spender, periods, spending
from governance.queries.budget_table import COLUMNS, table_of
from governance.queries.budgets import BudgetStanding, Scope, scope_names, tree
from governance.spreadsheet import as_csv, csv_answer

FULL = 100
PERIODS_SHOWN = 24
PERIOD_WORDS = {
    "total": gettext_lazy("in total"),
    "hour": gettext_lazy("each hour"),
    "day": gettext_lazy("each day"),
    "week": gettext_lazy("each week"),
    "month": gettext_lazy("each month"),
    "quarter": gettext_lazy("each quarter"),
    "year": gettext_lazy("each year"),
}
SCOPE_WORDS = {
    "workspace": gettext_lazy("workspace"),
    "team": gettext_lazy("team"),
    "user": gettext_lazy("person"),
    "session": gettext_lazy("session"),
    "task": gettext_lazy("task"),
    "agent": gettext_lazy("agent"),
    "model": gettext_lazy("model"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One budget as a line of the tree; `level` counts its ancestors, at most 4 are shown."""

    budget: BudgetStanding
    level: int
    scope: str
    address: str
    # Of the team that it is for.
    scope_address: str = ""

    @property
    def period(self) -> Any:
        """The period in words."""
        return PERIOD_WORDS[self.budget.period]

    @property
    def begins(self) -> str:
        """When its period began, by its own clock."""
        return _local(self.budget.period_start, self.budget.time_zone)

    @property
    def ends(self) -> str:
        """When its period ends, by its own clock; empty for a total."""
        return _local(self.budget.period_end, self.budget.time_zone) if self.budget.period_end else ""

    @property
    def runs_out(self) -> str:
        """When it will be used up if it goes on like this, by its own clock; empty where it lasts."""
        at = self.budget.runs_out_at
        return _local(at, self.budget.time_zone) if at and self.budget.percent < FULL else ""

    @property
    def amounts(self) -> list[dict[str, Any]]:
        """The limits of this budget, each with unit, limit, used, held back, left and percent."""
        return _amounts(self.budget)


@dataclass(frozen=True, slots=True)
class Past:
    """A period of a budget as a line of its history."""

    period: PeriodBalance
    when: str
    address: str

    @property
    def amounts(self) -> list[dict[str, Any]]:
        """Its limits, as `Line.amounts`; what was used of a budget that limited nothing then."""
        return _amounts(self.period)


@dataclass(frozen=True, slots=True)
class Went:
    """A decision that a budget paid for."""

    spender: Spender
    address: str
    money: str
    who: str


def _money(label: Any) -> forms.DecimalField:
    return forms.DecimalField(
        label=label, max_digits=16, decimal_places=6, min_value=Decimal(0), required=False
    )


class Terms(CommandForm):
    """What a budget allows to whom."""

    title = gettext_lazy("Set a budget")
    button = gettext_lazy("Set the budget")
    done = gettext_lazy("The budget is set.")
    aliases: ClassVar[Mapping[str, str]] = {"limit_micros": "limit_money", "parent_id": "parent"}

    name = forms.CharField(label=gettext_lazy("Name"), max_length=150)
    scope_kind = forms.ChoiceField(
        label=gettext_lazy("For what"), choices=[(kind, SCOPE_WORDS[kind]) for kind in get_args(ScopeKind)]
    )
    scope = forms.CharField(
        label=gettext_lazy("Which one"),
        required=False,
        max_length=200,
        help_text=gettext_lazy(
            "A person's address, the id of a session or task, or the name of a team, agent or model; "
            "nothing for the workspace."
        ),
        widget=forms.TextInput(attrs={"list": "known-scopes", "autocomplete": "off"}),
    )
    parent = forms.ChoiceField(label=gettext_lazy("Part of"), required=False)
    period = forms.ChoiceField(
        label=gettext_lazy("Period"), choices=[(period, PERIOD_WORDS[period]) for period in get_args(Period)]
    )
    time_zone = forms.CharField(
        label=gettext_lazy("Time zone"),
        max_length=64,
        initial="UTC",
        help_text=gettext_lazy(
            "Where the period's days begin at midnight, such as Europe/Berlin. Another one begins another "
            "period, with nothing used."
        ),
    )
    limit_tokens = forms.IntegerField(label=gettext_lazy("Limit in tokens"), required=False, min_value=0)
    limit_money = _money(gettext_lazy("Limit in money"))
    currency = forms.CharField(
        label=gettext_lazy("Currency"),
        max_length=3,
        initial="USD",
        help_text=gettext_lazy("The code of ISO 4217."),
    )
    warn_percent = forms.IntegerField(
        label=gettext_lazy("Warn at percent"), min_value=1, max_value=100, initial=80
    )

    def __init__(self, data: Any = None, *, workspace_id: UUID, of: Budget | None = None) -> None:
        initial: dict[str, Any] = {}
        if of is None and (workspace := Workspace.objects.filter(pk=workspace_id).first()):
            initial = {"time_zone": workspace.time_zone, "currency": workspace.currency}
        if of is not None:
            money = None if of.limit_micros is None else Decimal(of.limit_micros) / MICROS
            initial = {
                "name": of.name,
                "parent": str(of.parent_id or ""),
                "time_zone": of.time_zone,
                "limit_tokens": of.limit_tokens,
                "limit_money": money,
                "currency": of.currency,
                "warn_percent": of.warn_percent,
            }
        super().__init__(data, prefix="set", initial=initial)
        self.workspace_id = workspace_id
        self.of = of
        parent = self.fields["parent"]
        assert isinstance(parent, forms.ChoiceField)  # noqa: S101 # it is declared so above
        others = Budget.objects.filter(workspace_id=workspace_id, closed=False)
        parent.choices = [
            ("", _("nothing")),
            *(
                (str(row.pk), f"{row.name} ({PERIOD_WORDS[row.period]})")
                for row in others
                if of is None or row.pk != of.pk
            ),
        ]
        if of is not None:
            # What a budget is for and its period are its identity.
            for name in ("scope_kind", "scope", "period"):
                del self.fields[name]

    def clean_scope(self) -> str:
        """Return the id or name that the budget is for."""
        written = str(self.cleaned_data["scope"]).strip()
        match self.cleaned_data.get("scope_kind"):
            case "workspace":
                return str(self.workspace_id)
            case "user" if "@" in written:
                return str(_member(written, self.workspace_id))
            case "team" if written and as_uuid(written) is None:
                return _team(written, self.workspace_id)
            case "team" | "user" | "session" | "task":
                found = as_uuid(written)
                if found is None:
                    raise forms.ValidationError(_("Write an id."))
                return str(found)
            case _ if not written:
                raise forms.ValidationError(_("Write a name."))
        return written

    def carry_out(self, caller: Caller) -> None:
        """Set the terms."""
        given = self.cleaned_data
        of = self.of
        kind: Any = of.scope_kind if of else given["scope_kind"]
        period: Any = of.period if of else given["period"]
        commands.set_budget(
            caller=caller,
            name=given["name"],
            scope_kind=kind,
            scope=of.scope if of else given["scope"],
            parent_id=UUID(given["parent"]) if given["parent"] else None,
            period=period,
            time_zone=given["time_zone"],
            limit_tokens=given["limit_tokens"],
            limit_micros=_micros(given["limit_money"]),
            currency=given["currency"].upper(),
            warn_percent=given["warn_percent"],
        )


class OtherTerms(Terms):
    """Other terms for a budget that there is."""

    title = gettext_lazy("Change its terms")
    button = gettext_lazy("Change the terms")
    done = gettext_lazy("The budget has these terms now.")


class Settings(CommandForm):
    """What new budgets of a workspace take."""

    title = gettext_lazy("Time zone and currency")
    button = gettext_lazy("Save")
    done = gettext_lazy("New budgets take these.")

    time_zone = forms.CharField(
        label=gettext_lazy("Time zone"),
        max_length=64,
        help_text=gettext_lazy("Where the periods of new budgets begin, such as Europe/Berlin."),
    )
    currency = forms.CharField(
        label=gettext_lazy("Currency"),
        max_length=3,
        help_text=gettext_lazy("What new budgets count money in: the code of ISO 4217."),
    )

    def __init__(self, data: Any = None, *, workspace: Workspace) -> None:
        initial = {"time_zone": workspace.time_zone, "currency": workspace.currency}
        super().__init__(data, prefix="settings", initial=initial)

    def carry_out(self, caller: Caller) -> None:
        """Change the settings."""
        given = self.cleaned_data
        change_workspace_settings(
            caller=caller, time_zone=given["time_zone"], currency=given["currency"].upper()
        )


class Raise(CommandForm):
    """More for a budget, with the reason."""

    title = gettext_lazy("Raise it")
    button = gettext_lazy("Raise the limits")
    done = gettext_lazy("The limits are raised.")
    aliases: ClassVar[Mapping[str, str]] = {"limit_micros": "limit_money"}

    limit_tokens = forms.IntegerField(label=gettext_lazy("New limit in tokens"), required=False, min_value=0)
    limit_money = _money(gettext_lazy("New limit in money"))
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=500,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text=gettext_lazy("It is kept in clear for ever: no personal text."),
    )

    def __init__(self, data: Any = None, *, of: Budget) -> None:
        super().__init__(data, prefix="raise")
        self.of = of
        if of.limit_tokens is None:
            del self.fields["limit_tokens"]
        if of.limit_micros is None:
            del self.fields["limit_money"]

    def carry_out(self, caller: Caller) -> None:
        """Raise the limits."""
        given = self.cleaned_data
        commands.raise_budget(
            budget_id=self.of.pk,
            caller=caller,
            limit_tokens=given.get("limit_tokens"),
            limit_micros=_micros(given.get("limit_money")),
            reason=given["reason"],
        )


class Close(CommandForm):
    """The end of a budget."""

    title = gettext_lazy("Close it")
    button = gettext_lazy("Close the budget")
    done = gettext_lazy("The budget is closed: it limits nothing any more.")
    dangerous = True

    def __init__(self, data: Any = None, *, of: Budget) -> None:
        super().__init__(data, prefix="close")
        self.of = of

    def carry_out(self, caller: Caller) -> None:
        """Close the budget."""
        commands.close_budget(budget_id=self.of.pk, caller=caller)


@admin.register(Budget)
class BudgetAdmin(ConsolePage):
    """Budgets of a workspace, with what is used, held back and left."""

    def get_urls(self) -> list[URLPattern]:
        """Add the forms."""
        wrapped = self.admin_site.admin_view
        return [
            path("new/", wrapped(self.new_view), name="governance_budget_new"),
            path("settings/", wrapped(self.settings_view), name="governance_budget_settings"),
            path("export/", wrapped(self.export_view), name="governance_budget_export"),
            path(
                "<uuid:budget_id>/command/<slug:act>/",
                wrapped(self.command_view),
                name="governance_budget_command",
            ),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: Mapping[str, Any] | None = None
    ) -> HttpResponse:
        """Show the tree of a workspace."""
        workspace = self.workspace(request)
        with_closed = "closed" in request.GET
        now = timezone.now()
        lines = lines_of(tree(workspace.pk, now, closed=with_closed))
        short = [line for line in lines if not line.budget.closed and (line.budget.warning or line.runs_out)]
        context = {
            "title": _("Budgets"),
            "workspace": workspace,
            "workspaces": self.workspaces(request),
            "lines": lines,
            "short": sorted(short, key=lambda line: -line.budget.percent),
            "now": _local(now, workspace.time_zone),
            "with_closed": with_closed,
            "may_set_up": self.caller(request, workspace.pk, TEAM_ROLES) is not None,
            "may_change": self.caller(request, workspace.pk, BUDGET_ROLES) is not None,
            **(extra_context or {}),
        }
        return self.page(request, "budget/tree.html", context)

    def new_view(self, request: HttpRequest) -> HttpResponse:
        """Set a budget that is not there yet."""
        workspace = self.workspace(request)
        caller = self.must_be(request, workspace.pk, BUDGET_ROLES)
        form = Terms(request.POST if request.method == "POST" else None, workspace_id=workspace.pk)
        teams = Team.objects.filter(workspace_id=workspace.pk, closed=False).order_by("name")
        return self.begun(
            request,
            form,
            caller,
            template="budget/new.html",
            workspace=workspace,
            action=reverse("admin:governance_budget_new"),
            known=[
                *((team.name, SCOPE_WORDS["team"]) for team in teams),
                *((name, SCOPE_WORDS[kind]) for kind in ("agent", "model") for name in known_names(kind)),
            ],
        )

    def settings_view(self, request: HttpRequest) -> HttpResponse:
        """Show and change what new budgets take."""
        workspace = self.workspace(request)
        caller = self.must_be(request, workspace.pk, TEAM_ROLES)
        form = Settings(request.POST if request.method == "POST" else None, workspace=workspace)
        return self.begun(
            request,
            form,
            caller,
            template="budget/new.html",
            workspace=workspace,
            action=reverse("admin:governance_budget_settings"),
            events=events_behind(workspace.pk),
        )

    def export_view(self, request: HttpRequest) -> HttpResponse:
        """Hand the budgets out as CSV; the log says to whom."""
        workspace = self.workspace(request)
        if request.method != "POST":
            return redirect(f"{reverse('admin:governance_budget_changelist')}?workspace={workspace.pk}")
        rows = table_of(tree(workspace.pk, timezone.now(), closed="closed" in request.POST))
        record_export(actor=f"user:{request.user.pk}", what="budgets", workspaces=[workspace.pk] * len(rows))
        return csv_answer(as_csv(COLUMNS, rows), "budgets")

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: Mapping[str, Any] | None = None,
    ) -> HttpResponse:
        """Show one budget."""
        del form_url, extra_context
        row = self.found(request, object_id)
        return self._budget_page(request, row) if row else self.not_there(request, object_id)

    def command_view(self, request: HttpRequest, budget_id: UUID, act: str) -> HttpResponse:
        """Call the command of a form, and come back to the page."""
        row: Budget | None = self.found(request, budget_id)
        if row is None or act not in {"set", "raise", "close"}:
            raise Http404
        if request.method != "POST":
            return redirect(row_address("budget", row.pk))
        caller = self.must_be(request, row.workspace_id, BUDGET_ROLES)
        form: CommandForm
        if act == "set":
            form = OtherTerms(request.POST, workspace_id=row.workspace_id, of=row)
        else:
            form = (Raise if act == "raise" else Close)(request.POST, of=row)
        status = form.carried_out(caller)
        if not status:
            messages.success(request, str(form.done))
            return redirect(row_address("budget", row.pk))
        row.refresh_from_db()
        return self._budget_page(request, row, answered=form, status=status)

    def _budget_page(
        self, request: HttpRequest, row: Budget, *, answered: CommandForm | None = None, status: int = 200
    ) -> HttpResponse:
        now = timezone.now()
        found = {line.budget.id: line for line in lines_of(tree(row.workspace_id, now, closed=True))}
        standing = found[row.pk].budget
        offered: list[CommandForm] = []
        if self.caller(request, row.workspace_id, BUDGET_ROLES) is not None:
            offered = [OtherTerms(workspace_id=row.workspace_id, of=row)]
            if not row.closed:
                offered = [Raise(of=row), *offered, Close(of=row)]
        errors = put_in(offered, answered)
        context = {
            "title": row.name,
            "row": row,
            "line": found[row.pk],
            "parent": found.get(row.parent_id) if row.parent_id else None,
            "forms": offered,
            "errors": errors,
            "events": events_behind(row.pk),
            "members": _members(standing),
            **self._history(request, standing, now),
        }
        return self.page(request, "budget/one.html", context, status=status)

    def _history(self, request: HttpRequest, standing: BudgetStanding, now: datetime) -> dict[str, Any]:
        """Return the periods of a budget, and where that of the address, or the present one, went."""
        page = periods(standing, limit=PERIODS_SHOWN)
        here = row_address("budget", standing.id)
        past = [
            Past(each, _when(each, standing.time_zone), f"{here}?{urlencode({'period': _key(each)})}#spent")
            for each in page.items
        ]
        wanted = request.GET.get("period", "")
        start = next((each.period_start for each in page.items if _key(each) == wanted), None)
        found = spending(standing, at=now, period_start=start)
        people = names_of([f"user:{each.requester_id}" for each in found.spenders if each.requester_id])
        return {
            "past": past,
            "spending": found,
            "spending_since": _local(found.since, standing.time_zone),
            "went": [
                Went(
                    each,
                    row_address("policydecision", each.decision_id),
                    plain(each.micros),
                    people.get(f"user:{each.requester_id}", ""),
                )
                for each in found.spenders
            ],
        }


def lines_of(standings: Iterable[BudgetStanding]) -> list[Line]:
    """Return a tree as lines, parents before their parts."""
    roots = list(standings)
    names = scope_names(roots)

    def below(some: Iterable[BudgetStanding], level: int) -> Iterator[Line]:
        for one in some:
            team = reverse("admin:accounts_team_change", args=[one.scope]) if one.scope_kind == "team" else ""
            yield Line(one, min(level, 4), _scope_shown(one, names), row_address("budget", one.id), team)
            yield from below(one.children, level + 1)

    return list(below(roots, 0))


def _scope_shown(one: BudgetStanding, names: Mapping[Scope, str]) -> str:
    kind = str(SCOPE_WORDS[one.scope_kind])
    if one.scope_kind == "workspace":
        return kind
    return f"{kind}: {names.get((one.scope_kind, one.scope), one.scope)}"


def _members(one: BudgetStanding) -> list[str]:
    """Return the names of those whose acts a team's budget pays for."""
    if one.scope_kind != "team":
        return []
    members = TeamMember.objects.filter(team_id=one.scope).values_list("user_id", flat=True)
    return sorted(str(person) for person in User.objects.filter(pk__in=members))


def _when(period: PeriodBalance, time_zone: str) -> str:
    if period.period_end is None:
        return str(PERIOD_WORDS["total"])
    return f"{_local(period.period_start, time_zone)} – {_local(period.period_end, time_zone)}"


def _key(period: PeriodBalance) -> str:
    return period.period_start.isoformat()


def _local(at: datetime, time_zone: str) -> str:
    return at.astimezone(zone(time_zone)).strftime("%Y-%m-%d %H:%M %Z")


def _amounts(one: BudgetStanding | PeriodBalance) -> list[dict[str, Any]]:
    found = []
    if one.limit_tokens is not None:
        found.append(_amount(_("tokens"), one.limit_tokens, one.used_tokens, one.reserved_tokens, 1))
    if one.limit_micros is not None:
        found.append(_amount(one.currency, one.limit_micros, one.used_micros, one.reserved_micros, MICROS))
    return found


def _amount(unit: str, limit: int, used: int, reserved: int, divisor: int) -> dict[str, Any]:
    taken = used + reserved
    percent = FULL if limit == 0 else min(taken * FULL // limit, FULL)
    used_part = FULL if limit == 0 else min(used * FULL // limit, FULL)

    def shown(amount: int) -> int | str:
        return amount if divisor == 1 else plain(amount)

    return {
        "unit": unit,
        "limit": shown(limit),
        "limit_in": ngettext("token", "tokens", limit) if divisor == 1 else unit,
        "used": shown(used),
        "reserved": shown(reserved),
        "left": shown(limit - taken),
        "percent": percent,
        "used_part": used_part,
        "held_part": percent - used_part,
    }


def _micros(money: Decimal | None) -> int | None:
    return None if money is None else int(money * MICROS)


def _team(name: str, workspace_id: UUID) -> str:
    try:
        return str(team_named(name, workspace_id).id)
    except CartritaError as error:
        raise forms.ValidationError(error.message) from None


def _member(email: str, workspace_id: UUID) -> UUID:
    found = User.objects.filter(email=email.lower()).first()
    if found is None or not Membership.objects.filter(user_id=found.pk, workspace_id=workspace_id).exists():
        raise forms.ValidationError(_("Nobody with this address belongs to the workspace."))
    return found.pk
