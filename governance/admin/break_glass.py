"""Break-glass in the console: who opened it and why, what it let pass, and the forms for it."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, get_args
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from cartrita.accounts.console import names_of
from cartrita.accounts.models import Membership, User
from cartrita.accounts.queries import Caller
from governance.admin.pages import (
    GLASS_SCOPES,
    CommandForm,
    ConsolePage,
    events_behind,
    put_in,
    row_address,
)
from governance.break_glass import (
    ENDERS,
    LONGEST,
    LONGEST_REASON,
    OPENERS,
    REVIEWERS,
    SHORTEST_REASON,
    GlassScope,
)
from governance.commands import break_glass as commands
from governance.models import BreakGlass
from governance.queries import break_glass as queries
from governance.queries.four_eyes import four_eyes
from governance.visible_text import shown

MOST_SHOWN = 50
MOST_ACTS = 200
STATE_WORDS = {
    "open": gettext_lazy("in force"),
    "over": gettext_lazy("over"),
    "ended": gettext_lazy("ended early"),
}
_KEPT = gettext_lazy("It is kept in clear for ever: no personal text.")


def _note() -> forms.CharField:
    return forms.CharField(
        label=gettext_lazy("Note"),
        required=False,
        max_length=LONGEST_REASON,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text=_KEPT,
    )


class Open(CommandForm):
    """For how long, for what, and why."""

    title = gettext_lazy("Open break-glass")
    button = gettext_lazy("Open break-glass")
    done = gettext_lazy("Break-glass is open: breakable rules count as audit.")
    dangerous = True

    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        min_length=SHORTEST_REASON,
        max_length=LONGEST_REASON,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_KEPT,
    )
    minutes = forms.IntegerField(
        label=gettext_lazy("Minutes"),
        min_value=1,
        max_value=LONGEST // timedelta(minutes=1),
        initial=30,
        help_text=gettext_lazy("At most 480, which are 8 hours."),
    )
    scope_kind = forms.ChoiceField(
        label=gettext_lazy("For what"), choices=[(kind, GLASS_SCOPES[kind]) for kind in get_args(GlassScope)]
    )
    scope = forms.CharField(
        label=gettext_lazy("Which one"),
        required=False,
        max_length=254,
        help_text=gettext_lazy("The id of a session, or a person's address; nothing for the workspace."),
    )

    def __init__(self, data: Any = None, *, workspace_id: UUID) -> None:
        super().__init__(data, prefix="open")
        self.workspace_id = workspace_id

    def clean(self) -> dict[str, Any]:
        """Take a person's address for their id."""
        given: dict[str, Any] = super().clean() or {}
        written = str(given.get("scope", "")).strip()
        if given.get("scope_kind") == "user" and "@" in written:
            found = User.objects.filter(email=written.lower()).first()
            of_it = Membership.objects.filter(workspace_id=self.workspace_id)
            if found is None or not of_it.filter(user_id=found.pk).exists():
                self.add_error("scope", _("Nobody with this address belongs to the workspace."))
            else:
                given["scope"] = str(found.pk)
        return given

    def carry_out(self, caller: Caller) -> None:
        """Open it."""
        commands.open_break_glass(caller=caller, **self.cleaned_data)


class End(CommandForm):
    """Its end before its time."""

    title = gettext_lazy("End it")
    button = gettext_lazy("End it now")
    done = gettext_lazy("Break-glass is over: every rule counts in full.")

    note = _note()

    def __init__(self, data: Any = None, *, row: BreakGlass) -> None:
        super().__init__(data, prefix="end")
        self.row = row

    def carry_out(self, caller: Caller) -> None:
        """End it."""
        commands.end_break_glass(glass_id=self.row.pk, caller=caller, note=self.cleaned_data["note"])


class Review(CommandForm):
    """What a person has looked at."""

    title = gettext_lazy("Say that you have looked at them")
    button = gettext_lazy("I have looked at these")
    done = gettext_lazy("It is recorded that you have looked at them.")

    decisions = forms.MultipleChoiceField(label=gettext_lazy("Acts"), widget=forms.CheckboxSelectMultiple)
    note = _note()

    def __init__(self, data: Any = None, *, row: BreakGlass, waiting: Sequence[queries.Act]) -> None:
        super().__init__(data, prefix="review")
        self.row = row
        field = self.fields["decisions"]
        assert isinstance(field, forms.MultipleChoiceField)  # noqa: S101 # it is declared so above
        field.choices = [
            (
                str(act.decision_id),
                f"{act.created_at:%Y-%m-%d %H:%M:%S} UTC: {_subject(act)} ({act.unbroken_rule})",
            )
            for act in waiting
        ]

    def carry_out(self, caller: Caller) -> None:
        """Record it."""
        commands.review_acts(
            glass_id=self.row.pk,
            caller=caller,
            decisions=[UUID(each) for each in self.cleaned_data["decisions"]],
            note=self.cleaned_data["note"],
        )


@admin.register(BreakGlass)
class BreakGlassAdmin(ConsolePage):
    """The openings of a workspace, and what they let pass."""

    def get_urls(self) -> list[URLPattern]:
        """Add the forms."""
        wrapped = self.admin_site.admin_view
        return [
            path("new/", wrapped(self.new_view), name="governance_breakglass_new"),
            path(
                "<uuid:glass_id>/command/<slug:act>/",
                wrapped(self.command_view),
                name="governance_breakglass_command",
            ),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: Mapping[str, Any] | None = None
    ) -> HttpResponse:
        """Show the newest openings of a workspace, and the acts that wait for a person's look."""
        workspace = self.workspace(request)
        openings = queries.openings(workspace.pk, at=timezone.now(), limit=MOST_SHOWN)
        waiting = queries.acts(workspace.pk, limit=MOST_SHOWN)
        context = {
            "title": _("Break-glass"),
            "workspace": workspace,
            "workspaces": self.workspaces(request),
            "openings": _openings_shown(openings.items),
            "more_openings": openings.next_cursor is not None,
            "acts": _acts_shown(waiting.items),
            "more_acts": waiting.next_cursor is not None,
            "may_open": self.caller(request, workspace.pk, OPENERS) is not None,
            **(extra_context or {}),
        }
        return self.page(request, "breakglass/list.html", context)

    def new_view(self, request: HttpRequest) -> HttpResponse:
        """Open break-glass."""
        workspace = self.workspace(request)
        caller = self.must_be(request, workspace.pk, OPENERS)
        form = Open(request.POST if request.method == "POST" else None, workspace_id=workspace.pk)
        return self.begun(request, form, caller, template="breakglass/new.html", workspace=workspace)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: Mapping[str, Any] | None = None,
    ) -> HttpResponse:
        """Show one opening."""
        del form_url, extra_context
        row = self.found(request, object_id)
        return self._opening_page(request, row) if row else self.not_there(request, object_id)

    def command_view(self, request: HttpRequest, glass_id: UUID, act: str) -> HttpResponse:
        """Call the command of a form, and come back to the page."""
        row: BreakGlass | None = self.found(request, glass_id)
        if row is None or act not in {"end", "review"}:
            raise Http404
        if request.method != "POST":
            return redirect(row_address("breakglass", row.pk))
        caller = self.must_be(request, row.workspace_id, ENDERS if act == "end" else REVIEWERS)
        form: CommandForm = (
            End(request.POST, row=row)
            if act == "end"
            else Review(request.POST, row=row, waiting=self._waiting(row))
        )
        status = form.carried_out(caller)
        if not status:
            messages.success(request, str(form.done))
            return redirect(row_address("breakglass", row.pk))
        row.refresh_from_db()
        return self._opening_page(request, row, answered=form, status=status)

    def _waiting(self, row: BreakGlass) -> list[queries.Act]:
        return queries.acts(row.workspace_id, glass_id=row.pk, limit=MOST_ACTS).items

    def _opening_page(
        self, request: HttpRequest, row: BreakGlass, *, answered: CommandForm | None = None, status: int = 200
    ) -> HttpResponse:
        now = timezone.now()
        standing = queries.standing(row, at=now)
        waiting = self._waiting(row)
        offered: list[CommandForm] = []
        if standing.state == "open" and self.caller(request, row.workspace_id, ENDERS) is not None:
            offered.append(End(row=row))
        reviewer = self.caller(request, row.workspace_id, REVIEWERS)
        two = four_eyes(row.workspace_id, REVIEWERS).on
        barred = reviewer is not None and two and row.by == f"user:{reviewer.user_id}"
        if waiting and reviewer is not None and not barred:
            offered.append(Review(row=row, waiting=waiting))
        errors = put_in(offered, answered)
        everything = queries.acts(row.workspace_id, glass_id=row.pk, reviewed=None, limit=MOST_ACTS)
        under = queries.acts(row.workspace_id, glass_id=row.pk, which="all", reviewed=None, limit=MOST_SHOWN)
        context = {
            "title": _("Break-glass of %(at)s UTC") % {"at": f"{row.opened_at:%Y-%m-%d %H:%M}"},
            "row": row,
            "opening": _openings_shown([standing])[0],
            "acts": _acts_shown(everything.items),
            "more_acts": everything.next_cursor is not None,
            "under": _acts_shown(under.items),
            "more_under": under.next_cursor is not None,
            "decisions": f"{reverse('admin:governance_policydecision_changelist')}?glass_id={row.pk}",
            "barred": barred and bool(waiting),
            "forms": offered,
            "errors": errors,
            "events": events_behind(row.pk),
        }
        return self.page(request, "breakglass/one.html", context, status=status)


def _openings_shown(found: Sequence[queries.Standing]) -> list[dict[str, Any]]:
    actors = [*(one.by for one in found), *(one.ended_by for one in found if one.ended_by)]
    people = names_of([*actors, *(f"user:{one.scope}" for one in found if one.scope_kind == "user")])
    return [
        {
            "standing": one,
            "address": row_address("breakglass", one.id),
            "state": STATE_WORDS[one.state],
            "by": people[one.by],
            "ended_by": people[one.ended_by] if one.ended_by else "",
            "reason": shown(one.reason),
            "note": shown(one.ended_note),
            "scope": GLASS_SCOPES[one.scope_kind],
            "which": people[f"user:{one.scope}"] if one.scope_kind == "user" else one.scope,
        }
        for one in found
    ]


def _acts_shown(found: Sequence[queries.Act]) -> list[dict[str, Any]]:
    people = names_of(
        [
            *(f"user:{one.requester_id}" for one in found if one.requester_id),
            *(one.reviewed_by for one in found if one.reviewed_by),
        ]
    )
    return [
        {
            "act": one,
            "what": _subject(one),
            "address": row_address("policydecision", one.decision_id),
            "glass": row_address("breakglass", one.glass_id),
            "requester": people.get(f"user:{one.requester_id}", ""),
            "reviewed_by": people.get(one.reviewed_by, ""),
            "note": shown(one.note),
        }
        for one in found
    ]


def _subject(act: queries.Act) -> str:
    return shown(act.tool or act.model or act.subject_kind)
