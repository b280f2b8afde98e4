"""Budgets in the admin: the tree with what is used and left, and the forms that set, raise and close."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, get_args
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from cartrita.accounts.console import BUDGET_ROLES
from cartrita.accounts.models import Membership, User
from cartrita.accounts.queries import Caller
from cartrita.eventstore.admin import as_uuid
from governance.admin.pages import CommandForm, ConsolePage, events_behind, put_in, row_address, summary
from governance.budget import Period, ScopeKind
from governance.commands import budgets as commands
from governance.models import Budget
from governance.queries.budgets import BudgetStanding, tree

MICROS = 1_000_000
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

    @property
    def period(self) -> Any:
        """The period in words."""
        return PERIOD_WORDS[self.budget.period]

    @property
    def amounts(self) -> list[dict[str, Any]]:
        """The limits of this budget, each with unit, limit, used, held back, left and percent."""
        one = self.budget
        found = []
        if one.limit_tokens is not None:
            found.append(_amount(_("tokens"), one.limit_tokens, one.used_tokens, one.reserved_tokens, 1))
        if one.limit_micros is not None:
            found.append(
                _amount(one.currency, one.limit_micros, one.used_micros, one.reserved_micros, MICROS)
            )
        return found


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
            "A person's address, the id of a session or task, or the name of an agent or model; "
            "nothing for the workspace."
        ),
    )
    parent = forms.ChoiceField(label=gettext_lazy("Part of"), required=False)
    period = forms.ChoiceField(
        label=gettext_lazy("Period"), choices=[(period, PERIOD_WORDS[period]) for period in get_args(Period)]
    )
    time_zone = forms.CharField(
        label=gettext_lazy("Time zone"),
        max_length=64,
        initial="UTC",
        help_text=gettext_lazy("Where the period's days begin at midnight, such as Europe/Berlin."),
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
            case "user" | "session" | "task":
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
        context = {
            "title": _("Budgets"),
            "workspace": workspace,
            "workspaces": self.workspaces(request),
            "lines": list(_lines(tree(workspace.pk, now, closed=with_closed))),
            "with_closed": with_closed,
            "may_change": self.caller(request, workspace.pk, BUDGET_ROLES) is not None,
            **(extra_context or {}),
        }
        return self.page(request, "budget/tree.html", context)

    def new_view(self, request: HttpRequest) -> HttpResponse:
        """Set a budget that is not there yet."""
        workspace = self.workspace(request)
        caller = self.must_be(request, workspace.pk, BUDGET_ROLES)
        form = Terms(request.POST if request.method == "POST" else None, workspace_id=workspace.pk)
        status = 200
        if request.method == "POST":
            status = form.carried_out(caller)
            if not status:
                messages.success(request, str(form.done))
                return redirect(f"{reverse('admin:governance_budget_changelist')}?workspace={workspace.pk}")
        context = {
            "title": _("Set a budget"),
            "workspace": workspace,
            "form": form,
            "errors": summary(form),
        }
        return self.page(request, "budget/new.html", context, status=status)

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
            form = Terms(request.POST, workspace_id=row.workspace_id, of=row)
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
        found = {line.budget.id: line for line in _lines(tree(row.workspace_id, timezone.now(), closed=True))}
        offered: list[CommandForm] = []
        if self.caller(request, row.workspace_id, BUDGET_ROLES) is not None:
            offered = [Terms(workspace_id=row.workspace_id, of=row)]
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
        }
        return self.page(request, "budget/one.html", context, status=status)


def _lines(standings: Iterable[BudgetStanding], level: int = 0) -> Iterator[Line]:
    """Return a tree as lines, parents before their parts."""
    for one in standings:
        yield Line(one, min(level, 4), _scope_shown(one), row_address("budget", one.id))
        yield from _lines(one.children, level + 1)


def _scope_shown(one: BudgetStanding) -> str:
    kind = str(SCOPE_WORDS[one.scope_kind])
    if one.scope_kind == "workspace":
        return kind
    if one.scope_kind == "user":
        person = User.objects.filter(pk=one.scope).first()
        return f"{kind}: {person or one.scope}"
    return f"{kind}: {one.scope}"


def _amount(unit: str, limit: int, used: int, reserved: int, divisor: int) -> dict[str, Any]:
    taken = used + reserved
    percent = 100 if limit == 0 else min(taken * 100 // limit, 100)

    def shown(amount: int) -> int | Decimal:
        return amount if divisor == 1 else (Decimal(amount) / divisor).normalize()

    return {
        "unit": unit,
        "limit": shown(limit),
        "used": shown(used),
        "reserved": shown(reserved),
        "left": shown(limit - taken),
        "percent": percent,
    }


def _micros(money: Decimal | None) -> int | None:
    return None if money is None else int(money * MICROS)


def _member(email: str, workspace_id: UUID) -> UUID:
    found = User.objects.filter(email=email.lower()).first()
    if found is None or not Membership.objects.filter(user_id=found.pk, workspace_id=workspace_id).exists():
        raise forms.ValidationError(_("Nobody with this address belongs to the workspace."))
    return found.pk
