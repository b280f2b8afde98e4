"""The way of a policy set into force in the admin: its stages, who may do what next, what its shadow says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

from django import forms
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from cartrita.accounts.console import POLICY_ROLES, names_of
from cartrita.accounts.queries import Caller
from cartrita.errors import CartritaError
from governance.admin.decisions import rules_side_by_side, side_by_side
from governance.admin.pages import CommandForm, ConsolePage, event_log, row_address, summary
from governance.admin.rule_editor import Try
from governance.commands import policies as commands
from governance.commands.trials import TRIERS, try_set
from governance.queries import policies as queries
from governance.queries.policies import Draft, ShadowReport, UnknownPolicy
from governance.queries.stages import Stage, StageName, StageState
from governance.rulebook import APPROVERS, LONGEST_NOTE, Leave, Proposal, rulebook_id, trials_id

STAGE_NAMES: Mapping[StageName, Any] = {
    "draft": gettext_lazy("Draft"),
    "validated": gettext_lazy("Checked"),
    "tried": gettext_lazy("Tried"),
    "back_tested": gettext_lazy("Back-tested"),
    "proposed": gettext_lazy("Proposed"),
    "approved": gettext_lazy("Approved"),
    "shadow": gettext_lazy("In shadow"),
    "active": gettext_lazy("In force"),
    "retired": gettext_lazy("Retired"),
}
STATE_NAMES: Mapping[StageState, Any] = {
    "open": gettext_lazy("not yet"),
    "now": gettext_lazy("now"),
    "done": gettext_lazy("done"),
    "failed": gettext_lazy("stopped"),
    "skipped": gettext_lazy("skipped"),
}
MARKS: Mapping[StageState, str] = {"open": "○", "now": "●", "done": "✓", "failed": "✕", "skipped": "–"}
SPANS = (1, 7, 30, 90, 366)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A button: which command it calls, for holders of which roles, and what the page says then."""

    button: Any
    done: Any
    call: Callable[..., object]
    roles: frozenset[str] = APPROVERS
    # Under which name the command takes what was written; empty: it takes nothing.
    words: str = "note"
    dangerous: bool = False


STEPS: Mapping[str, Step] = {
    "propose": Step(
        button=gettext_lazy("Propose"),
        done=gettext_lazy("The draft is proposed: a second person puts it in force."),
        call=commands.propose,
        roles=POLICY_ROLES,
    ),
    "approve": Step(
        button=gettext_lazy("Approve"),
        done=gettext_lazy("Your approval is recorded: exactly this set may be put in force."),
        call=commands.approve,
    ),
    "activate": Step(
        button=gettext_lazy("Put it in force"),
        done=gettext_lazy("The set is in force."),
        call=commands.activate,
        dangerous=True,
    ),
    "shadow": Step(
        button=gettext_lazy("Put it in shadow"),
        done=gettext_lazy("The set is in shadow: evaluated beside every decision, never enforced."),
        call=commands.shadow,
    ),
    "unshadow": Step(
        button=gettext_lazy("End its shadow"),
        done=gettext_lazy("The set is in shadow no more."),
        call=commands.end_shadow,
        words="reason",
    ),
    "reject": Step(
        button=gettext_lazy("Reject"),
        done=gettext_lazy("The set is rejected."),
        call=commands.reject,
        words="reason",
    ),
    "withdraw": Step(
        button=gettext_lazy("Take it back"),
        done=gettext_lazy("The proposal is taken back."),
        call=commands.withdraw_proposal,
        words="",
    ),
}


class SetForm(CommandForm):
    """What a person says of one set of rules, the one that they looked at; each button is a step."""

    aliases: ClassVar = {"reason": "note"}

    policy_hash = forms.CharField(widget=forms.HiddenInput, max_length=64)
    note = forms.CharField(
        label=gettext_lazy("Note"),
        required=False,
        max_length=LONGEST_NOTE,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text=gettext_lazy("Why; who rejects must say. It is kept in clear for ever: no personal text."),
    )

    def __init__(
        self,
        data: Any = None,
        *,
        workspace_id: UUID,
        act: str = "",
        policy_hash: str = "",
        steps: tuple[str, ...] = (),
    ) -> None:
        # A form of its own for each act was sent before, and programs may do so still.
        prefix = act if data is not None and f"{act}-policy_hash" in data else "set"
        super().__init__(
            data, prefix=prefix, initial={"policy_hash": policy_hash}, auto_id=f"{policy_hash[:12]}-%s"
        )
        self.workspace_id = workspace_id
        self.act = act
        self.wrong: list[str] = []
        self.steps = [
            {
                "step": STEPS[each],
                "address": f"{reverse('admin:governance_policyrule_set', args=[each])}"
                f"?{urlencode({'workspace': str(workspace_id)})}",
            }
            for each in steps
        ]

    def carry_out(self, caller: Caller) -> None:
        """Take the step."""
        step, given = STEPS[self.act], self.cleaned_data
        words = {step.words: given["note"]} if step.words else {}
        step.call(workspace_id=self.workspace_id, caller=caller, policy_hash=given["policy_hash"], **words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One set on its way: what the page shows of it."""

    policy_hash: str
    is_draft: bool
    proposal: Proposal | None
    leave: Leave | None
    stages: list[dict[str, Any]]
    changes: list[dict[str, Any]]
    form: SetForm | None
    report: ShadowReport | None
    report_address: str
    try_address: str
    text_address: str


def on_their_way(draft: Draft) -> list[str]:
    """Return the sets that have left the draft and are not in force: approved, proposed, in shadow."""
    hashes = [leave.policy_hash for leave in draft.approved]
    hashes += [draft.proposal.policy_hash] if draft.proposal else []
    hashes += [draft.shadow.policy_hash] if draft.shadow else []
    return [each for each in dict.fromkeys(hashes) if each != draft.active_hash]


def steps_for(draft: Draft, policy_hash: str, writer: Caller | None, approver: Caller | None) -> list[str]:
    """Return the steps that this person may take with a set now, the one that most leads on first."""
    if policy_hash in {"", draft.active_hash} or approver is None:
        return []
    person = f"user:{approver.user_id}"
    proposal = draft.proposal if draft.proposal and draft.proposal.policy_hash == policy_hash else None
    leave = next((each for each in draft.approved if each.policy_hash == policy_hash), None)
    in_shadow = draft.shadow is not None and draft.shadow.policy_hash == policy_hash
    is_draft = policy_hash == draft.policy_hash
    proposed_by = proposal.by if proposal else leave.proposed_by if leave else ""
    steps = []
    if draft.four_eyes.on:
        holders = draft.four_eyes.holders
        said = {proposed_by, leave.by if leave else ""} - {""}
        # Who holds a role no more had a say in vain.
        may_watch = bool(said & holders - {person})
        unapproved = leave is None or leave.by not in holders
        steps += ["approve"] if proposed_by not in {person, ""} and unapproved else []
        steps += ["activate"] if may_watch else []
        steps += ["propose"] if is_draft and draft.ready and writer and (not said or said - holders) else []
    else:
        may_watch = writer is not None and (not is_draft or draft.ready)
        steps += ["activate"] if may_watch else []
    steps += ["shadow"] if may_watch and not in_shadow else []
    steps += ["unshadow"] if in_shadow else []
    steps += ["reject"] if proposed_by and proposed_by != person else []
    steps += ["withdraw"] if proposed_by == person else []
    return steps


def card(
    draft: Draft,
    policy_hash: str,
    workspace_id: UUID,
    *,
    changes: list[dict[str, Any]],
    writer: Caller | None,
    approver: Caller | None,
) -> Card:
    """Return what the page shows of a set."""
    steps = steps_for(draft, policy_hash, writer, approver)
    is_draft = policy_hash == draft.policy_hash
    in_shadow = draft.shadow is not None and draft.shadow.policy_hash == policy_hash and bool(policy_hash)
    workspace: dict[str, str] = {"workspace": str(workspace_id)}
    of_set = urlencode(workspace if is_draft else {**workspace, "hash": policy_hash})
    return Card(
        policy_hash=policy_hash,
        is_draft=is_draft,
        proposal=draft.proposal if draft.proposal and draft.proposal.policy_hash == policy_hash else None,
        leave=next((each for each in draft.approved if each.policy_hash == policy_hash), None),
        stages=stages_shown(queries.stage(workspace_id, None if is_draft else policy_hash, checked=draft)),
        changes=changes,
        form=SetForm(workspace_id=workspace_id, policy_hash=policy_hash, steps=tuple(steps))
        if steps
        else None,
        report=queries.shadow_report(
            workspace_id, timezone.now() - timedelta(days=7), policy_hash=policy_hash
        )
        if in_shadow
        else None,
        report_address=f"{reverse('admin:governance_policyrule_shadow')}?"
        + urlencode({**workspace, "hash": policy_hash, "days": "7"}),
        try_address=f"{reverse('admin:governance_policyrule_try')}?{of_set}",
        text_address=f"{reverse('admin:governance_policyrule_export')}?{of_set}",
    )


def stages_shown(stages: tuple[Stage, ...]) -> list[dict[str, Any]]:
    """Return stages in words, with people by name."""
    names = names_of(filter(None, (stage.by for stage in stages)))
    return [
        {
            "name": STAGE_NAMES[stage.name],
            "state": stage.state,
            "said": STATE_NAMES[stage.state],
            "mark": MARKS[stage.state],
            "at": stage.at,
            "by": names.get(stage.by, ""),
            "note": stage.note,
            "key": stage.name,
        }
        for stage in stages
    ]


def put_in_set(cards: list[Card], answered: SetForm | None) -> list[str]:
    """Put what was sent back among the cards, with what is wrong; return what the top of the page says."""
    if answered is None:
        return []
    wanted = answered.data.get(answered.add_prefix("policy_hash"), "")
    for each in cards:
        if each.policy_hash == wanted and each.form is not None:
            form = each.form
            if "note" in answered.errors:
                form.initial["note"] = answered.data.get(answered.add_prefix("note"), "")
                form.fields["note"].widget.attrs |= {"aria-invalid": "true"}
                form.wrong = [str(error) for error in answered.errors["note"]]
            return [str(error) for errors in answered.errors.values() for error in errors]
    return summary(answered) or [str(error) for errors in answered.errors.values() for error in errors]


def shadow_page(console: ConsolePage, request: HttpRequest) -> HttpResponse:
    """Show what a set in shadow would have changed."""
    workspaces, workspace = console.workspaces(request), console.workspace(request)
    given = request.GET.get("days", "")
    days = int(given) if given in {str(each) for each in SPANS} else 7
    policy_hash = request.GET.get("hash") or None
    try:
        report = queries.shadow_report(
            workspace.pk, timezone.now() - timedelta(days=days), policy_hash=policy_hash
        )
    except UnknownPolicy:
        raise Http404 from None
    context = {
        "title": _("What the set in shadow would change"),
        "workspaces": workspaces,
        "workspace": workspace,
        "report": report,
        "hash": policy_hash or "",
        "days": days,
        "spans": SPANS,
        "matrix": matrix_of(report) if report else [],
        "outcomes": _OUTCOMES,
        "watched": _in_words(report.watched) if report else "",
        "a_day": f"{report.approvals_a_day:+g}" if report else "",
        "examples": [(each, row_address("policydecision", each.decision_id)) for each in report.examples]
        if report
        else [],
        "stages": stages_shown(queries.stage(workspace.pk, report.policy_hash)) if report else [],
        "events": event_log(rulebook_id(workspace.pk)),
    }
    return console.page(request, "policyrule/shadow.html", context)


def try_page(console: ConsolePage, request: HttpRequest) -> HttpResponse:
    """Decide one past event under a set, beside what was decided; that it was tried is kept."""
    workspaces, workspace = console.workspaces(request), console.workspace(request)
    policy_hash = request.GET.get("hash") or None
    posted = request.method == "POST"
    form = Try(request.POST if posted else None, workspace_id=workspace.pk)
    context: dict[str, Any] = {}
    status, errors = 200, []
    if posted:
        caller = console.must_be(request, workspace.pk, TRIERS)
        status = 400
        if form.is_valid():
            try:
                found = try_set(
                    workspace_id=workspace.pk,
                    decision_id=form.cleaned_data["chosen"],
                    policy_hash=policy_hash,
                    caller=caller,
                )
            except CartritaError as error:
                status, errors = error.status, [error.message]
            else:
                status = 200
                context = {
                    "tried": found,
                    "tried_address": row_address("policydecision", found.decision_id),
                    "sides": side_by_side(found.recorded, found.new),
                    "rules": rules_side_by_side(found.recorded, found.new),
                }
        else:
            errors = [str(error) for error in form.non_field_errors()]
    draft = queries.draft(workspace.pk)
    try:
        stages = queries.stage(workspace.pk, policy_hash, checked=draft)
    except UnknownPolicy:
        raise Http404 from None
    shown = policy_hash or draft.policy_hash
    context |= {
        "title": _("Try a set on one event"),
        "workspaces": workspaces,
        "workspace": workspace,
        "hash": policy_hash or "",
        "shown_hash": shown,
        "form": form,
        "may_try": console.caller(request, workspace.pk, TRIERS) is not None,
        "stages": stages_shown(stages),
        "errors": errors,
        "events": event_log(trials_id(workspace.pk, shown)),
    }
    return console.page(request, "policyrule/try.html", context, status=status)


def matrix_of(report: ShadowReport) -> list[dict[str, Any]]:
    """Return the rows of a report's matrix, with every outcome in order of severity."""
    counts = {(cell.before, cell.after): cell.count for cell in report.matrix}
    return [
        {
            "before": before,
            "cells": [
                {"count": counts.get((before, after), 0), "after": after, "same": before == after}
                for after in _OUTCOMES
            ],
            "sum": sum(counts.get((before, after), 0) for after in _OUTCOMES),
        }
        for before in _OUTCOMES
    ]


def _in_words(time: timedelta) -> str:
    if time < timedelta(hours=1):
        minutes = time // timedelta(minutes=1)
        said = ngettext("%(minutes)s minute of that time", "%(minutes)s minutes of that time", minutes)
        return said % {"minutes": minutes}
    hours = round(time / timedelta(hours=1), 1)
    if hours == 1:
        return _("1 hour of that time")
    return _("%(hours)s hours of that time") % {"hours": hours}


_OUTCOMES = ("deny", "escalate", "throttle", "audit", "allow")
