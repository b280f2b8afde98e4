"""The rules of a workspace in the admin: the draft, what is in force, the sets of before."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from cartrita.accounts.console import POLICY_ROLES, names_of
from cartrita.accounts.queries import Caller
from cartrita.errors import CartritaError
from governance import cel
from governance.admin.coverage import coverage_page
from governance.admin.decisions import rules_side_by_side, side_by_side
from governance.admin.pages import (
    CommandForm,
    ConsolePage,
    event_log,
    events_behind,
    put_in,
    row_address,
    summary,
)
from governance.admin.policy_life import (
    STEPS,
    SetForm,
    card,
    on_their_way,
    put_in_set,
    shadow_page,
    stages_shown,
    try_page,
)
from governance.admin.rule_editor import EDITORS, Editor, Shown, Try, rule_text, unix_lines, with_caret
from governance.commands import policies as commands
from governance.models import PolicyRule, PolicyVersion, Rulebook
from governance.policy import (
    LARGEST_TEXT,
    PolicyNotValid,
    PolicySet,
    Rule,
    policy_text,
    rule_hash,
)
from governance.queries import policies as queries
from governance.queries.policies import Draft, UnknownPolicy, policy_set
from governance.rule import definition_of
from governance.rulebook import APPROVERS, rulebook_id

NAMES_SHOWN = [(name, kind.name(), meaning) for name, (kind, meaning) in cel.VARIABLES.items()]


class OldSetForm(CommandForm):
    """A form about one set that was in force; `policy_hash` is the one that the person looked at."""

    policy_hash = forms.CharField(widget=forms.HiddenInput, max_length=64)
    note = forms.CharField(
        label=gettext_lazy("Note"),
        required=False,
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text=gettext_lazy("Why. It is kept in clear for ever: no personal text."),
    )

    def __init__(self, data: Any = None, *, act: str, workspace_id: UUID, policy_hash: str = "") -> None:
        super().__init__(data, prefix=act, initial={"policy_hash": policy_hash})
        self.workspace_id = workspace_id


class ProposeAgain(OldSetForm):
    title = gettext_lazy("Propose this set again")
    button = gettext_lazy("Propose")
    done = gettext_lazy("The set is proposed: a second person puts it in force.")

    def carry_out(self, caller: Caller) -> None:
        """Propose the set."""
        given = self.cleaned_data
        commands.propose(
            workspace_id=self.workspace_id,
            caller=caller,
            policy_hash=given["policy_hash"],
            note=given["note"],
        )


class ActivateAgain(OldSetForm):
    title = gettext_lazy("Put this set in force again")
    button = gettext_lazy("Put it in force")
    done = gettext_lazy("The set is in force again. The draft stays as it is.")
    dangerous = True

    def carry_out(self, caller: Caller) -> None:
        """Roll back to the set."""
        given = self.cleaned_data
        commands.activate_again(
            workspace_id=self.workspace_id,
            policy_hash=given["policy_hash"],
            caller=caller,
            note=given["note"],
        )


class Import(CommandForm):
    title = gettext_lazy("Import rules")
    button = gettext_lazy("Make this the draft")
    done = gettext_lazy("The draft is what you imported.")

    file = forms.FileField(label=gettext_lazy("A YAML file"), required=False)
    text = forms.CharField(
        label=gettext_lazy("Or its text"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 16, "spellcheck": "false", "class": "code"}),
        help_text=gettext_lazy(
            "The whole draft becomes what stands here: rules that are missing are withdrawn."
        ),
    )

    def __init__(self, data: Any = None, files: Any = None, *, workspace_id: UUID) -> None:
        super().__init__(data, files, prefix="import")
        self.workspace_id = workspace_id
        self.problems: list[Shown] = []

    def clean(self) -> dict[str, Any]:
        """Return the text of the file, or the one that was written."""
        given = self.cleaned_data
        file = given.get("file")
        if file is not None:
            if file.size > LARGEST_TEXT:
                raise forms.ValidationError(_("The file is above 1 MiB; split the policy."))
            try:
                given["text"] = file.read().decode("utf-8-sig")
            except UnicodeDecodeError:
                raise forms.ValidationError(_("The file is no UTF-8 text.")) from None
        given["text"] = unix_lines(given.get("text") or "")
        if not given["text"].strip():
            raise forms.ValidationError(_("Choose a file, or write its text."))
        return given

    def carry_out(self, caller: Caller) -> None:
        """Make the draft equal to the text."""
        text = self.cleaned_data["text"]
        try:
            commands.import_policy(workspace_id=self.workspace_id, text=text, caller=caller)
        except PolicyNotValid as error:
            self.problems = [
                with_caret(
                    text, each.line, each.column, f"{each.line}:{each.column} {each.field}", each.message
                )
                for each in error.problems
            ]
            raise


class Withdraw(CommandForm):
    title = gettext_lazy("Withdraw the rule")
    button = gettext_lazy("Take it out of the draft")
    done = gettext_lazy("The rule is taken out of the draft.")
    dangerous = True

    def __init__(self, data: Any = None, *, former: PolicyRule) -> None:
        super().__init__(data, prefix="withdraw")
        self.former = former

    def carry_out(self, caller: Caller) -> None:
        """Withdraw the rule."""
        commands.withdraw_rule(workspace_id=self.former.workspace_id, name=self.former.name, caller=caller)


@admin.register(PolicyRule)
class PolicyRuleAdmin(ConsolePage):
    """The draft of a workspace, the set in force, and the editor of a rule."""

    def get_urls(self) -> list[URLPattern]:
        """Add the editor and the forms."""
        wrapped = self.admin_site.admin_view
        return [
            path("new/", wrapped(self.new_view), name="governance_policyrule_new"),
            path("import/", wrapped(self.import_view), name="governance_policyrule_import"),
            path("export/", wrapped(self.export_view), name="governance_policyrule_export"),
            path("coverage/", wrapped(partial(coverage_page, self)), name="governance_policyrule_coverage"),
            path("set/<slug:act>/", wrapped(self.set_view), name="governance_policyrule_set"),
            path("shadow/", wrapped(partial(shadow_page, self)), name="governance_policyrule_shadow"),
            path("try/", wrapped(partial(try_page, self)), name="governance_policyrule_try"),
            path(
                "<uuid:rule_id>/withdraw/", wrapped(self.withdraw_view), name="governance_policyrule_withdraw"
            ),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: Mapping[str, Any] | None = None
    ) -> HttpResponse:
        """Show the draft, what is in force, and how they differ."""
        del extra_context
        return self._rules_page(request, self.workspace(request).pk)

    def set_view(self, request: HttpRequest, act: str) -> HttpResponse:
        """Take a set one step further, or back: what each button of the page asks for."""
        workspace = self.workspace(request)
        if act not in STEPS:
            raise Http404
        if request.method != "POST":
            return redirect(_rules_address(workspace.pk))
        caller = self.must_be(request, workspace.pk, STEPS[act].roles)
        form = SetForm(request.POST, act=act, workspace_id=workspace.pk)
        status = form.carried_out(caller)
        if not status:
            messages.success(request, str(STEPS[act].done))
            return redirect(_rules_address(workspace.pk))
        return self._rules_page(request, workspace.pk, answered=form, status=status)

    def import_view(self, request: HttpRequest) -> HttpResponse:
        """Make the draft equal to a policy file."""
        workspace = self.workspace(request)
        caller = self.must_be(request, workspace.pk, POLICY_ROLES)
        posted = request.method == "POST"
        form = Import(*((request.POST, request.FILES) if posted else ()), workspace_id=workspace.pk)
        status = form.carried_out(caller) if posted else 200
        if not status:
            messages.success(request, str(form.done))
            return redirect(_rules_address(workspace.pk))
        context = {
            "title": _("Import rules"),
            "workspace": workspace,
            "form": form,
            "problems": form.problems,
            "errors": [] if form.problems else summary(form),
        }
        return self.page(request, "policyrule/import.html", context, status=status)

    def export_view(self, request: HttpRequest) -> HttpResponse:
        """Return a set as a YAML file: the draft, or the one that `hash` names."""
        workspace = self.workspace(request)
        wanted = request.GET.get("hash")
        try:
            text = queries.export_text(workspace.pk, wanted) if wanted else queries.draft(workspace.pk).text
        except UnknownPolicy:
            raise Http404 from None
        name = f"policy-{wanted[:12] if wanted else 'draft'}.yaml"
        return HttpResponse(
            text.encode(),
            content_type="application/yaml; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    def new_view(self, request: HttpRequest) -> HttpResponse:
        """Write a new rule."""
        workspace = self.workspace(request)
        self.must_be(request, workspace.pk, POLICY_ROLES)
        return self._editor_page(request, workspace.pk, None)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: Mapping[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a rule of the draft; those who may, change it here."""
        del form_url, extra_context
        row: PolicyRule | None = self.found(request, object_id)
        if row is None:
            return self.not_there(request, object_id)
        if request.method == "POST":
            self.must_be(request, row.workspace_id, POLICY_ROLES)
        return self._editor_page(request, row.workspace_id, row)

    def withdraw_view(self, request: HttpRequest, rule_id: UUID) -> HttpResponse:
        """Take a rule out of the draft."""
        row: PolicyRule | None = self.found(request, rule_id)
        if row is None:
            raise Http404
        if request.method != "POST":
            return redirect(row_address("policyrule", row.pk))
        caller = self.must_be(request, row.workspace_id, POLICY_ROLES)
        form = Withdraw(request.POST, former=row)
        if form.carried_out(caller):
            messages.error(request, " ".join(str(error) for error in form.non_field_errors()))
            return redirect(row_address("policyrule", row.pk))
        messages.success(request, str(form.done))
        return redirect(_rules_address(row.workspace_id))

    def _rules_page(
        self, request: HttpRequest, workspace_id: UUID, *, answered: SetForm | None = None, status: int = 200
    ) -> HttpResponse:
        draft = queries.draft(workspace_id)
        in_force = queries.version_in_force(workspace_id)
        active = queries.active_policy(workspace_id)
        writer = self.caller(request, workspace_id, POLICY_ROLES)
        approver = self.caller(request, workspace_id, APPROVERS)
        changes = [line for line in _differences(draft.rules, active) if line["change"]]
        differs = draft.policy_hash != draft.active_hash
        cards = [
            card(
                draft,
                each,
                workspace_id,
                changes=_changes_of(each, active, workspace_id),
                writer=writer,
                approver=approver,
            )
            for each in on_their_way(draft)
        ]
        own = card(draft, draft.policy_hash, workspace_id, changes=changes, writer=writer, approver=approver)
        on_its_way = own.policy_hash in {each.policy_hash for each in cards}
        errors = put_in_set([*cards, own], answered)
        said = [in_force.by, in_force.proposed_by, in_force.approved_by]
        said += [draft.proposal.by] if draft.proposal else []
        said += [draft.shadow.by] if draft.shadow else []
        for leave in draft.approved:
            said += [leave.by, leave.proposed_by]
        workspaces = self.workspaces(request)
        context = {
            "title": _("Policy rules"),
            "workspaces": workspaces,
            "workspace": next(each for each in workspaces if each.pk == workspace_id),
            "draft": draft,
            "in_force": in_force,
            "in_force_address": row_address("policyversion", in_force.pk),
            "names": names_of(filter(None, said)),
            "rules": _rule_lines(draft, active, workspace_id),
            "removed": [name for name in draft.changed if name not in {rule.name for rule in draft.rules}],
            "cards": cards,
            "own": own,
            "on_its_way": on_its_way,
            "differs": differs,
            "writer": writer,
            "errors": errors,
            "events": event_log(rulebook_id(workspace_id)),
        }
        return self.page(request, "policyrule/rules.html", context, status=status)

    def _editor_page(self, request: HttpRequest, workspace_id: UUID, row: PolicyRule | None) -> HttpResponse:
        """Show the editor, after doing what its button asked for: check, save, try, or show the other way."""
        writer = self.caller(request, workspace_id, POLICY_ROLES)
        mode = "yaml" if request.GET.get("as") == "yaml" else "form"
        former = None if row is None or row.withdrawn else row
        stands = Rule.model_validate(row.definition) if row else None
        posted = request.method == "POST"
        initial = EDITORS[mode].holding(stands) if stands else None
        editor = EDITORS[mode](request.POST if posted else None, former=row, initial=initial)
        tried = Try(
            request.POST if posted and request.POST.get("do") == "try" else None, workspace_id=workspace_id
        )
        context: dict[str, Any] = {}
        status = 200
        rule = editor.written() if posted else stands
        if posted and rule is None:
            status = 400
        elif posted and rule is not None:
            match request.POST.get("do"):
                case "save":
                    assert writer is not None  # noqa: S101 # both views ask for the role before
                    status = self._save(request, editor, rule, row, writer)
                    if not status:
                        return redirect(self._address(workspace_id, rule.name, mode))
                case "try" if tried.is_valid():
                    context, status = _tried(editor, rule, workspace_id, tried.cleaned_data["chosen"])
                case "try":
                    status = 400
                case "form" | "yaml" as other:
                    mode = other
                    editor = EDITORS[mode](former=row, initial=EDITORS[mode].holding(rule))
        asked = posted and request.POST.get("do") == "check"
        checked = _checked(rule, workspace_id) if rule and asked else None
        if row is not None:
            row.refresh_from_db()
        context |= {
            "title": row.name if row else _("New rule"),
            "workspace": self._workspace_of(request, workspace_id),
            "row": row,
            "former": former,
            "stands": stands,
            "stands_text": rule_text(stands) if stands else "",
            "writer": writer,
            "mode": mode,
            "form": editor,
            "try_form": tried,
            "problems": editor.problems,
            "checked": checked,
            "errors": summary(editor),
            "known": NAMES_SHOWN,
            "withdraw": Withdraw(former=row) if row and former and writer else None,
            "names": names_of([row.updated_by]) if row else {},
            "hits": _hits_of(row) if row else None,
            "events": event_log(rulebook_id(workspace_id)),
        }
        return self.page(request, "policyrule/rule.html", context, status=status)

    def _workspace_of(self, request: HttpRequest, workspace_id: UUID) -> Any:
        return next((each for each in self.workspaces(request) if each.pk == workspace_id), None)

    def _save(
        self, request: HttpRequest, editor: Editor, rule: Rule, row: PolicyRule | None, writer: Caller
    ) -> int:
        """Write the rule; return 0, or the HTTP status of what is wrong, which the form then says."""
        workspace_id = writer.workspace_id
        queries.active_policy(workspace_id)  # which begins a rulebook that is not there yet
        version = Rulebook.objects.get(workspace_id=workspace_id).version
        present = PolicyRule.objects.filter(
            workspace_id=workspace_id, name=rule.name, withdrawn=False
        ).first()
        seen = request.POST.get("rule_version") or "0"
        if str(present.version if present else row.version if row else 0) != seen:
            moved = (
                _("%(who)s wrote version %(version)s of this rule meanwhile. Saving again replaces that.")
                if row
                else _("The draft has a rule of this name already; open that one, or choose another name.")
            )
            who = names_of([present.updated_by])[present.updated_by] if present else ""
            editor.add_error(None, moved % {"who": who, "version": present.version if present else 0})
            return 409
        try:
            commands.write_rule(
                workspace_id=workspace_id,
                definition=definition_of(rule),
                caller=writer,
                expected_version=version,
            )
        except CartritaError as error:
            editor.add_error(None, error.message)
            return error.status
        messages.success(request, _("The rule stands in the draft."))
        return 0

    def _address(self, workspace_id: UUID, name: str, mode: str) -> str:
        row = PolicyRule.objects.get(workspace_id=workspace_id, name=name)
        return f"{row_address('policyrule', row.pk)}?{urlencode({'as': mode})}"


@admin.register(PolicyVersion)
class PolicyVersionAdmin(ConsolePage):
    """The sets that were in force, each with its rules and how it differs from the one of now."""

    list_display = ("activated_at", "policy", "policy_hash", "active", "by", "proposed_by", "alone", "note")
    list_filter = ("active", "alone")
    ordering = ("-activated_at", "-id")

    def get_urls(self) -> list[URLPattern]:
        """Add the forms."""
        command = self.admin_site.admin_view(self.command_view)
        return [
            path("<uuid:version_id>/command/<slug:act>/", command, name="governance_policyversion_command"),
            *super().get_urls(),
        ]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: Mapping[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a set."""
        del form_url, extra_context
        row: PolicyVersion | None = self.found(request, object_id)
        return self._set_page(request, row) if row else self.not_there(request, object_id)

    def command_view(self, request: HttpRequest, version_id: UUID, act: str) -> HttpResponse:
        """Propose the set again, or put it in force again."""
        row: PolicyVersion | None = self.found(request, version_id)
        kinds: dict[str, type[OldSetForm]] = {"propose": ProposeAgain, "activate": ActivateAgain}
        if row is None or act not in kinds:
            raise Http404
        if request.method != "POST":
            return redirect(row_address("policyversion", row.pk))
        caller = self.must_be(request, row.workspace_id, POLICY_ROLES if act == "propose" else APPROVERS)
        form = kinds[act](request.POST, act=act, workspace_id=row.workspace_id)
        status = form.carried_out(caller)
        if not status:
            messages.success(request, str(form.done))
            return redirect(_rules_address(row.workspace_id))
        return self._set_page(request, row, answered=form, status=status)

    def _set_page(
        self,
        request: HttpRequest,
        row: PolicyVersion,
        *,
        answered: OldSetForm | None = None,
        status: int = 200,
    ) -> HttpResponse:
        policy = policy_set(row.policy_hash)
        active = queries.active_policy(row.workspace_id)
        draft = queries.draft(row.workspace_id)
        offered: list[OldSetForm] = []
        if policy.content_hash != active.content_hash:
            proposed = draft.proposal is not None and draft.proposal.policy_hash == row.policy_hash
            proposed = proposed or any(
                each.policy_hash == row.policy_hash and each.stands(draft.four_eyes.holders)
                for each in draft.approved
            )
            if draft.four_eyes.on and not proposed and self.caller(request, row.workspace_id, POLICY_ROLES):
                offered.append(
                    ProposeAgain(act="propose", workspace_id=row.workspace_id, policy_hash=row.policy_hash)
                )
            roles = APPROVERS if draft.four_eyes.on else POLICY_ROLES
            if (proposed or not draft.four_eyes.on) and self.caller(request, row.workspace_id, roles):
                offered.append(
                    ActivateAgain(act="activate", workspace_id=row.workspace_id, policy_hash=row.policy_hash)
                )
        errors = put_in(offered, answered)
        context = {
            "title": _("Set %(hash)s") % {"hash": row.policy_hash[:12]},
            "row": row,
            "workspace": None,
            "names": names_of(filter(None, [row.by, row.proposed_by, row.approved_by])),
            "policy": policy,
            "stages": stages_shown(queries.stage(row.workspace_id, row.policy_hash, checked=draft)),
            "differences": _differences(policy.rules, active),
            "forms": offered,
            "errors": errors,
            "events": events_behind(rulebook_id(row.workspace_id), []),
            "export": f"{reverse('admin:governance_policyrule_export')}?"
            + urlencode({"workspace": str(row.workspace_id), "hash": row.policy_hash}),
        }
        return self.page(request, "policyrule/set.html", context, status=status)


def _changes_of(policy_hash: str, active: PolicySet, workspace_id: UUID) -> list[dict[str, Any]]:
    """Return what a set would change."""
    found = queries.known_set(workspace_id, policy_hash)
    return [line for line in _differences(found.rules, active) if line["change"]]


def _rule_lines(draft: Draft, active: PolicySet, workspace_id: UUID) -> list[dict[str, Any]]:
    """Return the draft's rules in order, each with its hits and how it stands to the set in force."""
    now = timezone.now()
    week = queries.rule_hits(workspace_id, now - timedelta(days=7))
    month = queries.rule_hits(workspace_id, now - timedelta(days=30))
    rows = {row.name: row for row in queries.rules(workspace_id)}
    in_force = {rule.name for rule in active.rules}
    return [
        {
            "rule": rule,
            "address": row_address("policyrule", rows[rule.name].pk),
            "version": rows[rule.name].version,
            "week": week.get(rule.name, queries.RuleHits()),
            "month": month.get(rule.name, queries.RuleHits()),
            "change": ("changed" if rule.name in in_force else "added") if rule.name in draft.changed else "",
        }
        for rule in draft.rules
        if rule.name in rows
    ]


def _hits_of(row: PolicyRule) -> dict[str, Any]:
    now = timezone.now()
    none = queries.RuleHits()
    return {
        "week": queries.rule_hits(row.workspace_id, now - timedelta(days=7)).get(row.name, none),
        "month": queries.rule_hits(row.workspace_id, now - timedelta(days=30)).get(row.name, none),
    }


def _draft_with(rule: Rule, workspace_id: UUID) -> str:
    """Return the draft as YAML, with this rule in place of the one of its name."""
    draft = queries.draft(workspace_id)
    rules = [rule if each.name == rule.name else each for each in draft.rules]
    return policy_text(rules if rule in rules else [*rules, rule], draft.policy)


def _checked(rule: Rule, workspace_id: UUID) -> dict[str, Any]:
    """Return what checking the draft with this rule says: problems, warnings of the rule, failed examples."""
    found = queries.check_text(_draft_with(rule, workspace_id))
    return {
        "problems": [str(problem) for problem in found.problems],
        "warnings": [f"{each.field}: {each.message}" for each in found.warnings if each.rule == rule.name],
        "failures": [str(failure) for failure in found.failures],
    }


def _tried(editor: Editor, rule: Rule, workspace_id: UUID, decision_id: UUID) -> tuple[dict[str, Any], int]:
    try:
        found = queries.try_on(
            workspace_id=workspace_id, decision_id=decision_id, text=_draft_with(rule, workspace_id)
        )
    except CartritaError as error:
        editor.add_error(None, error.message)
        return {}, error.status
    return {
        "tried": found,
        "tried_address": row_address("policydecision", decision_id),
        "sides": side_by_side(found.recorded, found.new),
        "rules": rules_side_by_side(found.recorded, found.new),
    }, 200


def _differences(rules: Sequence[Rule], active: PolicySet) -> list[dict[str, Any]]:
    """Return each rule of either set, how it stands to the set in force, and both texts where they differ."""
    present = {rule.name: rule for rule in active.rules}
    own = {rule.name for rule in rules}
    lines = []
    for rule in rules:
        other = present.get(rule.name)
        change = "added" if other is None else "changed" if rule_hash(other) != rule_hash(rule) else ""
        lines.append(_difference(rule, change, other, rule if change else None))
    gone = (rule for rule in active.rules if rule.name not in own)
    return [*lines, *(_difference(rule, "removed", rule, None) for rule in gone)]


def _difference(rule: Rule, change: str, before: Rule | None, after: Rule | None) -> dict[str, Any]:
    return {
        "name": rule.name,
        "sentence": rule.sentence,
        "change": change,
        "before": _text_that_counts(before) if before and change else "",
        "after": _text_that_counts(after) if after else "",
    }


def _text_that_counts(rule: Rule) -> str:
    """Return the rule as YAML without its examples, which decide nothing."""
    return rule_text(rule.model_copy(update={"examples": ()}))


def _rules_address(workspace_id: UUID) -> str:
    return (
        f"{reverse('admin:governance_policyrule_changelist')}?{urlencode({'workspace': str(workspace_id)})}"
    )
