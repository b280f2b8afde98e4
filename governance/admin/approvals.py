"""The approval inbox: what waits for people, each request with all facts in view, and the forms for it."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Case, Q, QuerySet, Value, When
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from cartrita.accounts.console import console_caller, names_of, workspaces_for
from cartrita.accounts.queries import Caller, people_with_roles
from cartrita.eventstore import RecordedEvent, load
from cartrita.eventstore.admin import as_uuid
from cartrita.eventstore.canonical import canonical_json
from governance import approval
from governance.admin.pages import (
    CommandForm,
    ConsolePage,
    Exports,
    break_glass_notices,
    events_behind,
    indented,
    put_in,
    row_address,
)
from governance.approval import ApprovalNoted, ApprovalVoted
from governance.commands import approvals as commands
from governance.models import Approval, PolicyRule
from governance.queries.approvals import (
    SHOWN_BYTES,
    agreed,
    arguments_of,
    arguments_shown,
    may_read,
    shown,
)
from governance.queries.approvals import barred as is_barred
from governance.queries.four_eyes import four_eyes
from governance.queries.policies import UnknownPolicy, policy_set

MOST_WAITING = 200
PRECEDENTS = 10
# What is no tool call (a held answer, say) stands between tools that need caution and safe ones.
_RISK = Case(
    When(safety_level="restricted", then=Value(0)),
    When(safety_level="caution", then=Value(1)),
    When(safety_level="safe", then=Value(3)),
    default=Value(2),
)
STATUS_WORDS = {
    "waiting": gettext_lazy("waiting"),
    "granted": gettext_lazy("approved"),
    "used": gettext_lazy("approved and used"),
    "denied": gettext_lazy("denied"),
    "expired": gettext_lazy("expired, which counts as no"),
    "void": gettext_lazy("void"),
    "replaced": gettext_lazy("replaced by a request with other arguments"),
}
CAUSE_WORDS = {
    "arguments_changed": gettext_lazy("its arguments changed"),
    "tool_changed": gettext_lazy("the tool changed"),
    "rule_changed": gettext_lazy("the rule changed"),
    "not_covered": gettext_lazy("another rule decides now"),
    "cancelled": gettext_lazy("it was cancelled"),
    "erased": gettext_lazy("what was asked is erased"),
}


@dataclass(frozen=True, slots=True)
class ToolShown:
    """What the console says of a tool as it is now."""

    description: str
    definition_hash: str


_tools: list[Callable[[str], ToolShown | None]] = []


def register_tools(lookup: Callable[[str], ToolShown | None]) -> None:
    """Register how the console finds a tool by its name; the package that owns the tools does it."""
    _tools[:] = [lookup]


class Answer(CommandForm):
    """A form that ends or comments one approval; `row` is what it is about."""

    def __init__(self, data: Any = None, *, act: str, row: Approval) -> None:
        super().__init__(data, prefix=act, auto_id="id_%s")
        self.act = act
        self.row = row


class Approve(Answer):
    title = gettext_lazy("Approve")
    button = gettext_lazy("Approve")
    done = gettext_lazy("Your approval is recorded.")

    scope = forms.ChoiceField(label=gettext_lazy("For how much"), widget=forms.RadioSelect)
    pattern = forms.JSONField(
        label=gettext_lazy("Pattern of the arguments"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
        help_text=gettext_lazy(
            "JSON: each argument with the text that it must have; * stands for any text, \\* for a star."
        ),
    )
    valid_until = forms.DateTimeField(
        label=gettext_lazy("Valid until (UTC)"),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        help_text=gettext_lazy("Needed for a pattern."),
    )
    text = forms.CharField(
        label=gettext_lazy("Remark"),
        required=False,
        max_length=4000,
        widget=forms.Textarea(attrs={"rows": 2}),
    )

    _scopes: ClassVar[Mapping[str, Any]] = {
        "once": gettext_lazy("This act alone"),
        "session": gettext_lazy("Acts of this tool in this session"),
        "pattern": gettext_lazy("Acts of this tool in the workspace whose arguments fit a pattern"),
    }

    def __init__(self, data: Any = None, *, act: str, row: Approval) -> None:
        super().__init__(data, act=act, row=row)
        scope = self.fields["scope"]
        assert isinstance(scope, forms.ChoiceField)  # noqa: S101 # it is declared so above
        scope.choices = [(one, self._scopes[one]) for one in row.scopes]
        scope.initial = row.scopes[0]
        if "pattern" not in row.scopes:
            del self.fields["pattern"], self.fields["valid_until"]

    def clean(self) -> dict[str, Any]:
        """Ask for what a pattern needs."""
        given = self.cleaned_data
        if given.get("scope") == "pattern":
            pattern = given.get("pattern")
            if "pattern" not in self.errors and not (
                isinstance(pattern, dict)
                and pattern
                and all(isinstance(text, str) for text in pattern.values())
            ):
                self.add_error(
                    "pattern", _('Write a JSON object with texts, such as {"url": "https://example.org/*"}.')
                )
            if "valid_until" not in self.errors and not given.get("valid_until"):
                self.add_error("valid_until", _("Say until when the pattern holds."))
        return given

    def carry_out(self, caller: Caller) -> None:
        """Record the vote."""
        given = self.cleaned_data
        more: dict[str, Any] = {}
        if given["scope"] == "pattern":
            more = {"pattern": given["pattern"], "valid_until": given["valid_until"]}
        commands.approve(
            approval_id=self.row.pk, caller=caller, scope=given["scope"], text=given["text"], **more
        )


class Deny(Answer):
    title = gettext_lazy("Deny")
    button = gettext_lazy("Deny")
    done = gettext_lazy("Your refusal is recorded.")
    dangerous = True

    text = forms.CharField(
        label=gettext_lazy("Reason"), max_length=4000, widget=forms.Textarea(attrs={"rows": 2})
    )

    def carry_out(self, caller: Caller) -> None:
        """Record the vote."""
        commands.deny(approval_id=self.row.pk, caller=caller, text=self.cleaned_data["text"])


class Ask(Answer):
    title = gettext_lazy("Ask the requester")
    button = gettext_lazy("Ask")
    done = gettext_lazy("Your question is recorded.")

    text = forms.CharField(
        label=gettext_lazy("Question"), max_length=4000, widget=forms.Textarea(attrs={"rows": 2})
    )

    def carry_out(self, caller: Caller) -> None:
        """Record the question."""
        commands.ask(approval_id=self.row.pk, caller=caller, text=self.cleaned_data["text"])


class Reply(Answer):
    title = gettext_lazy("Answer")
    button = gettext_lazy("Answer")
    done = gettext_lazy("Your answer is recorded.")

    text = forms.CharField(
        label=gettext_lazy("Answer"), max_length=4000, widget=forms.Textarea(attrs={"rows": 2})
    )

    def carry_out(self, caller: Caller) -> None:
        """Record the answer."""
        commands.answer(approval_id=self.row.pk, caller=caller, text=self.cleaned_data["text"])


class TakeBack(Answer):
    title = gettext_lazy("Take the approval back")
    button = gettext_lazy("Take it back")
    done = gettext_lazy("The approval is taken back.")
    dangerous = True

    def carry_out(self, caller: Caller) -> None:
        """Make the grant void."""
        commands.withdraw(approval_id=self.row.pk, caller=caller)


class Comment(Answer):
    title = gettext_lazy("Comment")
    button = gettext_lazy("Comment")
    done = gettext_lazy("Your comment is recorded.")

    text = forms.CharField(
        label=gettext_lazy("Comment"), max_length=4000, widget=forms.Textarea(attrs={"rows": 2})
    )

    def carry_out(self, caller: Caller) -> None:
        """Record the comment."""
        commands.comment(approval_id=self.row.pk, caller=caller, text=self.cleaned_data["text"])


class Edit(Answer):
    title = gettext_lazy("Change the arguments")
    button = gettext_lazy("Ask anew with these arguments")
    done = gettext_lazy("The request is replaced: it is decided anew with your arguments.")

    arguments = forms.CharField(
        label=gettext_lazy("Arguments as JSON"),
        strip=False,
        widget=forms.Textarea(attrs={"rows": 8, "spellcheck": "false", "class": "code"}),
        help_text=gettext_lazy("The act is decided again with these, and needs an approval of its own."),
    )

    def clean_arguments(self) -> dict[str, Any]:
        """Return the object that the JSON text is."""
        try:
            read = json.loads(
                self.cleaned_data["arguments"],
                object_pairs_hook=_without_repetition,
                parse_constant=_refuse_constant,
            )
        except json.JSONDecodeError as error:
            raise forms.ValidationError(
                _("Line %(line)s, column %(column)s: this is not JSON (%(said)s)."),
                params={"line": error.lineno, "column": error.colno, "said": error.msg},
            ) from None
        except (ValueError, RecursionError) as error:
            raise forms.ValidationError(
                _("This is not JSON: %(said)s."), params={"said": str(error)}
            ) from None
        if not isinstance(read, dict):
            raise forms.ValidationError(_('Write a JSON object: {"argument": value}.'))
        return read

    def carry_out(self, caller: Caller) -> None:
        """Replace the request."""
        commands.edit_arguments(
            approval_id=self.row.pk, caller=caller, arguments=self.cleaned_data["arguments"]
        )


# By the last part of their addresses, in the order of the page.
ANSWERS: Mapping[str, type[Answer]] = {
    "approve": Approve,
    "deny": Deny,
    "ask": Ask,
    "answer": Reply,
    "comment": Comment,
    "edit": Edit,
    "withdraw": TakeBack,
}
_OF_APPROVERS = frozenset({"approve", "deny", "ask", "comment", "edit", "withdraw"})
_OF_REQUESTERS = frozenset({"answer", "comment"})


@admin.register(Approval)
class ApprovalAdmin(Exports, ConsolePage):
    """Requests for approval: those that wait first, then all."""

    list_display = (
        "requested_at",
        "status",
        "subject",
        "rule",
        "safety_level",
        "expires_at",
        "ended_at",
    )
    list_filter = ("status", "subject_kind", "safety_level", "own", "rule")
    search_fields = ("id",)
    search_help_text = gettext_lazy(
        "An approval, decision, session or workspace id, or a rule, tool or agent"
    )
    date_hierarchy = "requested_at"
    exported_columns = (
        "id",
        "workspace_id",
        "session_id",
        "decision_id",
        "requester_id",
        "subject_kind",
        "agent_name",
        "tool_name",
        "model_name",
        "definition_hash",
        "safety_level",
        "arguments_bytes",
        "rule",
        "rule_hash",
        "policy_hash",
        "reason",
        "status",
        "scope",
        "own",
        "edited_by",
        "void_cause",
        "uses",
        "requested_at",
        "expires_at",
        "ended_at",
    )

    def get_urls(self) -> list[URLPattern]:
        """Add the page's parts and forms."""
        wrapped = self.admin_site.admin_view
        return [
            path("waiting/", wrapped(self.waiting_view), name="governance_approval_waiting"),
            path("<uuid:approval_id>/state/", wrapped(self.state_view), name="governance_approval_state"),
            path(
                "<uuid:approval_id>/arguments/",
                wrapped(self.arguments_view),
                name="governance_approval_arguments",
            ),
            path(
                "<uuid:approval_id>/answer/<slug:act>/",
                wrapped(self.answer_view),
                name="governance_approval_answer",
            ),
            *super().get_urls(),
        ]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Approval], search_term: str
    ) -> tuple[QuerySet[Approval], bool]:
        """Find approvals by the ids and names around them."""
        del request
        term = search_term.strip()
        if not term:
            return queryset, False
        found = Q(rule=term) | Q(tool_name=term) | Q(agent_name=term)
        uuid = as_uuid(term)
        if uuid is not None:
            found |= Q(id=uuid) | Q(decision_id=uuid) | Q(session_id=uuid) | Q(workspace_id=uuid)
        return queryset.filter(found), False

    @admin.display(description=gettext_lazy("what"))
    def subject(self, row: Approval) -> str:
        """Return the tool or the model that the request is about."""
        return shown(row.tool_name or row.model_name or row.subject_kind)

    def changelist_view(
        self, request: HttpRequest, extra_context: Mapping[str, Any] | None = None
    ) -> HttpResponse:
        """Show what waits, then all approvals."""
        found = self._waiting(request) if self.has_view_permission(request) else {}
        return super().changelist_view(request, {**(extra_context or {}), **found, "title": _("Approvals")})

    def waiting_view(self, request: HttpRequest) -> HttpResponse:
        """Return the part of the page with what waits, for a page that follows it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return _part(request, "waiting.html", self._waiting(request))

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: Mapping[str, Any] | None = None,
    ) -> HttpResponse:
        """Show one approval with everything that a person needs to decide."""
        del form_url, extra_context
        row = self.found(request, object_id)
        return self._approval_page(request, row) if row else self.not_there(request, object_id)

    def state_view(self, request: HttpRequest, approval_id: UUID) -> HttpResponse:
        """Return the part of the page that says how the request stands."""
        row = self._known(request, approval_id)
        return _part(request, "state.html", _state(row, load(row.pk)))

    def arguments_view(self, request: HttpRequest, approval_id: UUID) -> HttpResponse:
        """Return the exact arguments as a file."""
        row = self._known(request, approval_id)
        if not self._may_read(request, row):
            raise PermissionDenied
        arguments = arguments_of(row)
        if arguments is None:
            raise Http404
        return HttpResponse(
            json.dumps(arguments, indent=2, ensure_ascii=False).encode(),
            content_type="application/json",
            headers={"Content-Disposition": f'attachment; filename="arguments-{row.pk}.json"'},
        )

    def answer_view(self, request: HttpRequest, approval_id: UUID, act: str) -> HttpResponse:
        """Call the command of a form, and come back to the page."""
        if act not in ANSWERS:
            raise Http404
        row = self._known(request, approval_id)
        if request.method != "POST":
            return redirect(row_address("approval", row.pk))
        caller = console_caller(request.user, row.workspace_id)
        if caller is None or act not in _allowed(row, caller):
            raise PermissionDenied
        form = ANSWERS[act](request.POST, act=act, row=row)
        status = form.carried_out(caller)
        if not status:
            messages.success(request, str(form.done))
            return redirect(row_address("approval", row.pk))
        row.refresh_from_db()
        return self._approval_page(request, row, answered=form, status=status)

    def _may_read(self, request: HttpRequest, row: Approval) -> bool:
        """Tell whether the person may read what a request says; a superuser needs a role for it too."""
        caller = console_caller(request.user, row.workspace_id)
        return caller is not None and may_read(row, caller)

    def _known(self, request: HttpRequest, approval_id: UUID) -> Approval:
        row: Approval | None = self.found(request, approval_id)
        if row is None:
            raise Http404
        return row

    def _waiting(self, request: HttpRequest) -> dict[str, Any]:
        found = self.get_queryset(request).filter(status="waiting")
        rows = list(found.annotate(risk=_RISK).order_by("risk", "requested_at", "id")[:MOST_WAITING])
        people = names_of([f"user:{row.requester_id}" for row in rows if row.requester_id])
        workspaces = {each.pk: each.name for each in workspaces_for(request.user)}
        now = timezone.now()
        waiting = [
            {
                "row": row,
                "what": shown(row.tool_name or row.model_name or row.subject_kind),
                "address": row_address("approval", row.pk),
                "requester": people.get(f"user:{row.requester_id}", ""),
                "workspace": workspaces.get(row.workspace_id, ""),
                "overdue": row.expires_at <= now,
                "soon": now < row.expires_at <= now + timedelta(minutes=10),
            }
            for row in rows
        ]
        return {
            "waiting": waiting,
            "waiting_count": found.count(),
            "several_workspaces": len(workspaces) > 1,
            "break_glass": break_glass_notices(workspaces),
            "channels": " ".join(f"approvals:{workspace_id}" for workspace_id in workspaces),
        }

    def _approval_page(
        self, request: HttpRequest, row: Approval, *, answered: Answer | None = None, status: int = 200
    ) -> HttpResponse:
        caller = console_caller(request.user, row.workspace_id)
        allowed = _allowed(row, caller) if caller else frozenset()
        recorded = load(row.pk)
        readable = self._may_read(request, row)
        arguments = arguments_of(row) if readable else None
        holders = len(people_with_roles(row.workspace_id, row.approver_roles))
        two = four_eyes(row.workspace_id, row.approver_roles)
        barred = _barred(row, caller) if caller and "approve" in allowed else ""
        open_forms = _forms(row, arguments, _offered(row, allowed, barred=bool(barred)))
        errors = put_in(open_forms, answered)
        context = {
            "title": _("Approval of %(what)s")
            % {"what": shown(row.tool_name or row.model_name or row.subject_kind)},
            "row": row,
            **_state(row, recorded),
            "readable": readable,
            "erased": arguments is None,
            "arguments": arguments_shown(arguments or {}),
            "pattern": shown(indented(dict(_folded(recorded).pattern)))
            if readable and row.scope == "pattern"
            else "",
            "requester": _person(row.requester_id),
            "edited_by": names_of([row.edited_by])[row.edited_by] if row.edited_by else "",
            "decision_address": row_address("policydecision", row.decision_id),
            "rule": _rule_shown(row),
            "tool": _tool_shown(row),
            "precedents": self._precedents(request, row),
            "said": _said(recorded) if readable else [],
            "forms": open_forms,
            "errors": errors,
            "may_decide": "approve" in allowed,
            "four_eyes": two.on,
            "four_eyes_until": two.until,
            "holders": holders,
            "barred": barred,
            "events": events_behind(row.pk, recorded),
        }
        return self.page(request, "approval/one.html", context, status=status)

    def _precedents(self, request: HttpRequest, row: Approval) -> list[dict[str, Any]]:
        """Return earlier approvals of the same rule and tool, newest first."""
        rows = (
            self.get_queryset(request)
            .filter(workspace_id=row.workspace_id, rule=row.rule, tool_name=row.tool_name)
            .exclude(pk=row.pk)
            .exclude(status="waiting")
            .order_by("-requested_at", "-id")[:PRECEDENTS]
        )
        return [{**_state(each), "address": row_address("approval", each.pk)} for each in rows]


def _part(request: HttpRequest, template: str, context: Mapping[str, Any]) -> HttpResponse:
    return HttpResponse(
        render_to_string(f"admin/governance/approval/{template}", context, request),
        headers={"Cache-Control": "no-store"},
    )


def _state(row: Approval, recorded: Sequence[RecordedEvent] | None = None) -> dict[str, Any]:
    """Return how an approval stands, in words: its status, who ended it, when."""
    if recorded is None:
        ending = [vote["by"] for vote in row.votes if (vote["vote"] == "deny") == (row.status == "denied")]
        ending = ending if row.status in {"granted", "used", "denied"} else []
    else:
        ending = list(_folded(recorded).ended_by)
    return {
        "row": row,
        "status": STATUS_WORDS.get(row.status, row.status),
        "ended_by": ", ".join(names_of(ending).values()),
        "cause": CAUSE_WORDS.get(row.void_cause, row.void_cause),
        "overdue": row.status == "waiting" and row.expires_at <= timezone.now(),
        "voted": agreed(row) if row.status == "waiting" and row.quorum > 1 else 0,
        "channels": f"approvals:{row.workspace_id}",
    }


def _folded(recorded: Sequence[RecordedEvent]) -> approval.Approval:
    return approval.fold((each.event, each.recorded_at) for each in recorded)


def _allowed(row: Approval, caller: Caller) -> frozenset[str]:
    """Return the forms that a person's roles, or the request being their own, open to them."""
    found: frozenset[str] = frozenset()
    if not caller.roles.isdisjoint(row.approver_roles):
        found |= _OF_APPROVERS
    if row.requester_id == caller.user_id:
        found |= _OF_REQUESTERS
    return found


def _offered(row: Approval, allowed: Collection[str], *, barred: bool) -> list[str]:
    """Return those of the forms that make sense as the request stands."""
    if row.status == "waiting":
        fitting = {"approve", "deny", "ask", "answer", "comment"} - ({"approve"} if barred else set())
        if row.subject_kind == "tool_call":
            fitting.add("edit")
    else:
        fitting = {"comment", "withdraw"} if row.status == "granted" else {"comment"}
    return [act for act in ANSWERS if act in allowed and act in fitting]


def _forms(row: Approval, arguments: Mapping[str, Any] | None, acts: Sequence[str]) -> list[Answer]:
    offered = [ANSWERS[act](act=act, row=row) for act in acts]
    if arguments is None or row.arguments_bytes > SHOWN_BYTES:
        return offered
    plain = indented(arguments)
    hides = shown(plain) != plain
    for form in offered:
        if form.act == "edit":
            # Where something could hide in the text, the field shows every such character as its escape.
            form.initial["arguments"] = json.dumps(arguments, indent=2, ensure_ascii=True) if hides else plain
        elif form.act == "approve" and not hides:
            form.initial["pattern"] = {name: _literal(value) for name, value in arguments.items()}
    return offered


def _literal(value: Any) -> str:
    """Return the text of a pattern that stands for exactly this value."""
    text = value if isinstance(value, str) else canonical_json(value).decode()
    return text.replace("\\", "\\\\").replace("*", "\\*")


def _barred(row: Approval, caller: Caller) -> str:
    """Return why four eyes keep this person from approving, or nothing."""
    if not is_barred(row, caller):
        return ""
    if row.edited_by:
        return _("These arguments are yours, so another person must approve them. You may deny them.")
    return _("You asked for this yourself, so another person must approve it. You may deny it.")


def _person(user_id: UUID | None) -> str:
    if user_id is None:
        return ""
    actor = f"user:{user_id}"
    return names_of([actor])[actor]


def _rule_shown(row: Approval) -> dict[str, Any]:
    """Return the rule's sentence as it was, and how that version stands to the rule of today."""
    try:
        rules = {rule.name: rule for rule in policy_set(row.policy_hash).rules}
    except UnknownPolicy:
        rules = {}
    rule = rules.get(row.rule)
    present = PolicyRule.objects.filter(workspace_id=row.workspace_id, name=row.rule, withdrawn=False).first()
    same = present is not None and present.rule_hash == row.rule_hash
    return {
        "sentence": rule.sentence if rule else row.reason,
        "message": rule.message_for_people if rule else "",
        "present": present,
        "same": same,
        "address": row_address("policyrule", present.pk) if present else "",
    }


def _tool_shown(row: Approval) -> dict[str, Any] | None:
    if not row.tool_name:
        return None
    tool = _tools[0](row.tool_name) if _tools else None
    return {
        "description": tool.description if tool else "",
        "known": tool is not None,
        "same": tool is not None and tool.definition_hash == row.definition_hash,
    }


def _said(recorded: Sequence[RecordedEvent]) -> list[dict[str, Any]]:
    """Return what people said on an approval, and their votes, in order."""
    names = names_of(
        [each.event.by for each in recorded if isinstance(each.event, ApprovalNoted | ApprovalVoted)]
    )
    found = []
    for each in recorded:
        event = each.event
        if isinstance(event, ApprovalNoted | ApprovalVoted):
            found.append(
                {
                    "kind": event.kind if isinstance(event, ApprovalNoted) else event.vote,
                    "own": isinstance(event, ApprovalVoted) and event.own,
                    "by": names[event.by],
                    "at": each.recorded_at,
                    "text": shown(event.text),
                }
            )
    return found


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
