"""Back-tests in the console: which there are, how far they have come, what they found."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from cartrita.accounts.console import names_of
from cartrita.accounts.queries import Caller
from cartrita.eventstore.admin import as_uuid
from governance.admin.pages import (
    MICROS,
    CommandForm,
    ConsolePage,
    events_behind,
    in_utc,
    put_in,
    row_address,
    summary,
)
from governance.backtest.back_test import CANCELLERS, REQUESTERS
from governance.commands import backtests as commands
from governance.models import BackTest, PolicyDecision
from governance.policy import LARGEST_TEXT
from governance.queries import backtests as queries
from governance.queries import policies
from governance.queries.backtests import Standing

OUTCOMES = ("allow", "audit", "throttle", "escalate", "deny")
STATUS_WORDS = {
    "requested": gettext_lazy("under way"),
    "completed": gettext_lazy("done"),
    "failed": gettext_lazy("failed"),
    "cancelled": gettext_lazy("cancelled"),
}
PHASE_WORDS = {
    "queued": gettext_lazy("It waits for its turn."),
    "counting": gettext_lazy("The decisions are counted."),
    "buckets": gettext_lazy("Levels of throttle rules are worked out."),
    "deciding": gettext_lazy("The decisions are made again."),
}
SOURCE_WORDS = {
    "draft": gettext_lazy("the draft"),
    "known": gettext_lazy("a set that the workspace knows"),
    "text": gettext_lazy("a file's text"),
}


class Begin(CommandForm):
    """Which set, over which decisions."""

    title = gettext_lazy("Test a set against the history")
    button = gettext_lazy("Begin")
    done = gettext_lazy("The back-test is asked for.")
    aliases = {"policy": "text", "policy_hash": "policy_hash"}  # noqa: RUF012 # as the base class declares it

    policy_hash = forms.CharField(
        label=gettext_lazy("Hash of a set"),
        required=False,
        max_length=64,
        help_text=gettext_lazy("Of the draft, a proposed or an earlier set; nothing for the draft."),
        widget=forms.TextInput(attrs={"list": "known-sets", "autocomplete": "off", "spellcheck": "false"}),
    )
    text = forms.CharField(
        label=gettext_lazy("Or a policy file's text"),
        required=False,
        strip=False,
        max_length=LARGEST_TEXT,
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false", "class": "code"}),
    )
    since = forms.DateTimeField(
        label=gettext_lazy("Decisions from"),
        required=False,
        help_text=gettext_lazy("UTC, such as 2026-01-31 08:00; nothing for all of them."),
    )
    until = forms.DateTimeField(label=gettext_lazy("To before"), required=False)
    session_id = forms.UUIDField(label=gettext_lazy("Only of the session"), required=False)

    def __init__(self, data: Any = None, *, workspace_id: UUID, policy_hash: str = "") -> None:
        super().__init__(data, prefix="begin", initial={"policy_hash": policy_hash})
        self.workspace_id = workspace_id
        self.back_test_id: UUID | None = None

    def clean(self) -> dict[str, Any]:
        """Take times for UTC, and either a hash or a text."""
        given: dict[str, Any] = super().clean() or {}
        for name in ("since", "until"):
            if isinstance(at := given.get(name), datetime):
                given[name] = at.replace(tzinfo=UTC)
        if given.get("text", "").strip() and given.get("policy_hash"):
            self.add_error("text", _("Give a hash or a text, not both."))
        return given

    def carry_out(self, caller: Caller) -> None:
        """Ask for it."""
        given = self.cleaned_data
        self.back_test_id, _new = commands.request_back_test(
            workspace_id=self.workspace_id,
            caller=caller,
            policy_hash=given["policy_hash"].strip() or None,
            text=given["text"].replace("\r\n", "\n") if given["text"].strip() else None,
            since=given["since"],
            until=given["until"],
            session_id=given["session_id"],
        )


class Cancel(CommandForm):
    """Stopping it."""

    title = gettext_lazy("Stop it")
    button = gettext_lazy("Stop the back-test")
    done = gettext_lazy("The back-test is stopped.")

    def __init__(self, data: Any = None, *, row: BackTest) -> None:
        super().__init__(data, prefix="cancel")
        self.row = row

    def carry_out(self, caller: Caller) -> None:
        """Stop it."""
        commands.cancel_back_test(back_test_id=self.row.pk, caller=caller)


@admin.register(BackTest)
class BackTestAdmin(ConsolePage):
    """The back-tests of a workspace, each with its report."""

    def get_urls(self) -> list[URLPattern]:
        """Add the forms, and the part of a page that tells the progress."""
        wrapped = self.admin_site.admin_view
        return [
            path("new/", wrapped(self.new_view), name="governance_backtest_new"),
            path(
                "<uuid:back_test_id>/progress/",
                wrapped(self.progress_view),
                name="governance_backtest_progress",
            ),
            path(
                "<uuid:back_test_id>/command/<slug:act>/",
                wrapped(self.command_view),
                name="governance_backtest_command",
            ),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: Mapping[str, Any] | None = None
    ) -> HttpResponse:
        """Show the newest back-tests of a workspace."""
        del extra_context
        workspace = self.workspace(request)
        page = queries.of_workspace(workspace.pk, cursor=request.GET.get("cursor") or None)
        context = {
            "title": _("Back-tests"),
            "workspace": workspace,
            "workspaces": self.workspaces(request),
            "back_tests": _listed(page.items),
            "next_cursor": page.next_cursor,
            "may_begin": self.caller(request, workspace.pk, REQUESTERS) is not None,
        }
        return self.page(request, "backtest/list.html", context)

    def new_view(self, request: HttpRequest) -> HttpResponse:
        """Show the form, or ask for a back-test."""
        workspace = self.workspace(request)
        caller = self.must_be(request, workspace.pk, REQUESTERS)
        status = 200
        form = Begin(workspace_id=workspace.pk, policy_hash=request.GET.get("hash", "")[:64])
        if request.method == "POST":
            form = Begin(request.POST, workspace_id=workspace.pk)
            status = form.carried_out(caller)
            if not status and form.back_test_id is not None:
                messages.success(request, str(form.done))
                return redirect(row_address("backtest", form.back_test_id))
        context = {
            "title": form.title,
            "workspace": workspace,
            "form": form,
            "known": known_sets(workspace.pk),
            "errors": summary(form),
        }
        return self.page(request, "backtest/new.html", context, status=status)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: Mapping[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a back-test: how far it is, or what it found."""
        del form_url, extra_context
        row = self.found(request, object_id)
        return self.not_there(request, object_id) if row is None else self._one(request, row)

    def progress_view(self, request: HttpRequest, back_test_id: UUID) -> HttpResponse:
        """Return the part of the page that tells how far it is."""
        row = self.found(request, back_test_id)
        if row is None:
            raise Http404
        return HttpResponse(render_to_string("admin/governance/backtest/progress.html", _progress(row)))

    def command_view(self, request: HttpRequest, back_test_id: UUID, act: str) -> HttpResponse:
        """Carry out a form of a back-test's page."""
        row = self.found(request, back_test_id)
        if row is None or act != "cancel" or request.method != "POST":
            raise Http404
        form = Cancel(request.POST, row=row)
        status = form.carried_out(self.must_be(request, row.workspace_id, CANCELLERS))
        if status:
            return self._one(request, row, answered=form, status=status)
        messages.success(request, str(form.done))
        return redirect(row_address("backtest", row.pk))

    def _one(
        self, request: HttpRequest, row: BackTest, *, answered: CommandForm | None = None, status: int = 200
    ) -> HttpResponse:
        offered: list[Any] = []
        if row.status == "requested" and self.caller(request, row.workspace_id, CANCELLERS):
            offered.append(Cancel(row=row))
        errors = put_in(offered, answered)
        context = {
            "title": _("Back-test of %(policy)s") % {"policy": row.policy},
            "row": row,
            **_progress(row),
            "by": names_of([row.by])[row.by],
            "ended_by": names_of([row.ended_by])[row.ended_by] if row.ended_by else "",
            "source": SOURCE_WORDS[row.source],
            "forms": offered,
            "errors": errors,
            "events": events_behind(row.pk),
            "report": _report(row) if row.status == "completed" else None,
        }
        return self.page(request, "backtest/one.html", context, status=status)


def known_sets(workspace_id: UUID) -> list[tuple[str, str]]:
    """Return the sets that can be tested, each by hash and what it is."""
    draft = policies.draft(workspace_id)
    found = [(draft.policy_hash, _("the draft"))]
    found += [(draft.proposal.policy_hash, _("proposed"))] if draft.proposal else []
    found += [(leave.policy_hash, _("approved")) for leave in draft.approved]
    found += [(draft.shadow.policy_hash, _("in shadow"))] if draft.shadow else []
    found += [
        (
            each.policy_hash,
            _("in force") if each.active else _("in force from %(at)s") % {"at": in_utc(each.activated_at)},
        )
        for each in policies.versions(workspace_id).items
    ]
    said: dict[str, str] = {}
    for policy_hash, words in found:
        if policy_hash:
            said.setdefault(policy_hash, words)
    return list(said.items())


def _listed(items: Iterable[Standing]) -> list[dict[str, Any]]:
    found = list(items)
    people = names_of([one.row.by for one in found])
    return [
        {
            "row": one.row,
            "address": row_address("backtest", one.row.pk),
            "by": people[one.row.by],
            "status": STATUS_WORDS[one.row.status],
            "percent": one.percent,
        }
        for one in found
    ]


def _progress(row: BackTest) -> dict[str, Any]:
    standing = queries.standings([row])[0]
    return {
        "standing": standing,
        "status": STATUS_WORDS[row.status],
        "phase": PHASE_WORDS.get(standing.phase, ""),
        "open": row.status == "requested",
    }


def _report(row: BackTest) -> dict[str, Any]:
    """Return the report as the page shows it: with a table of outcomes, money as people write it, links."""
    found = queries.report(row)
    shown = [*found["first_changes"], *found["examples"], *found["self_check"]["shown"]]
    wanted = [UUID(one["decision_id"]) for one in shown]
    there = set(PolicyDecision.objects.filter(id__in=wanted).values_list("id", flat=True))
    for one in shown:
        decision_id = as_uuid(one["decision_id"])
        one["address"] = row_address("policydecision", decision_id) if decision_id in there else ""
        one["what"] = one["tool"] or one["model"] or one["subject_kind"]
        one["when"] = datetime.fromisoformat(one["at"])
        before, after = ("old", "new") if "old" in one else ("recorded", "now")
        one["was"], one["was_rule"] = one[before], one[f"{before}_rule"]
        one["would"], one["would_rule"] = one[after], one[f"{after}_rule"]
    matrix = found["matrix"]
    used = [one for one in OUTCOMES if one in matrix or any(one in row for row in matrix.values())]
    table = [
        {"old": old, "cells": [{"many": matrix.get(old, {}).get(new, 0), "same": old == new} for new in used]}
        for old in used
    ]
    return {
        **found,
        "seconds": round(found["milliseconds"] / 1000, 1),
        "memory": found["peak_memory_bytes"] // 2**20,
        "outcomes": used,
        "table": table,
        "tables": [
            {"name": name, "rows": found[key]}
            for name, key in (
                (_("Tool"), "by_tool"),
                (_("Agent"), "by_agent"),
                (_("Model"), "by_model"),
                (_("Kind of act"), "by_subject_kind"),
            )
            if found[key]
        ],
        "spent": [
            {"what": what, "tokens": found["spend"][key]["tokens"], "money": _money(found["spend"][key])}
            for what, key in (
                (_("Of acts that would not have happened"), "blocked"),
                (_("Of acts after those, which are not reached"), "not_reached"),
                (_("At most, of acts that would have happened"), "let_through"),
            )
        ],
        "days": [day for day in found["by_day"] if day["changed"] or day["approvals_before"]][-60:],
    }


def _money(spend: Mapping[str, Any]) -> str:
    return ", ".join(f"{micros / MICROS:,.2f} {unit}" for unit, micros in spend["micros"].items()) or "–"
