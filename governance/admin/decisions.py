"""Decisions in the admin: to read, with the events behind each, and to make again."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from cartrita.accounts.console import console_caller, names_of
from cartrita.errors import CartritaError
from cartrita.eventstore import unseal_or_empty
from cartrita.eventstore.admin import as_uuid
from governance.admin.pages import (
    ConsolePage,
    Exports,
    events_behind,
    in_utc,
    link,
    plain,
    row_address,
)
from governance.capsules import decision_capsule, prove_decision
from governance.commands.exports import record_export
from governance.decide import Verdict
from governance.decision import DecisionMade, verdict_of
from governance.downloads import capsule_answer
from governance.models import BreakGlass, Budget, PolicyDecision, PolicyRule
from governance.queries.decision_log import EXPORTED_COLUMNS, may_read_request
from governance.queries.decisions import decision_made, in_order, redecide
from governance.visible_text import shown

_RESULTS = {
    "matched": gettext_lazy("matched"),
    "error": gettext_lazy("could not be evaluated: counts as deny"),
    "not_matched": gettext_lazy("did not match"),
}


class ActOutcomes(admin.AllValuesFieldListFilter):
    """What acts came to; those that came to nothing yet have a name here, too."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Yield the choices, none of which is empty."""
        for choice in super().choices(changelist):
            yield choice if choice["display"] else {**choice, "display": _("nothing yet")}


@admin.register(PolicyDecision)
class PolicyDecisionAdmin(Exports, ConsolePage):
    """Decisions with their verdict, exact request and outcome."""

    list_display = (
        "created_at",
        "decision",
        "subject_kind",
        "subject",
        "policy_rule",
        "act_outcome",
        "review",
        "agent_name",
    )
    list_filter = ("decision", "subject_kind", "review", ("act_outcome", ActOutcomes), "policy_rule")
    search_fields = ("id",)
    search_help_text = "A decision, session or workspace id, a trace id, or a rule, tool, model or agent"
    date_hierarchy = "created_at"
    fieldsets = (
        (
            "Verdict",
            {
                "fields": (
                    "decision",
                    "rule_page",
                    "reason",
                    "review",
                    "message_for_agent",
                    "message_for_people",
                    "approval_page",
                    "grant_pages",
                    "retry_after_ms",
                    "redact",
                    "glass_page",
                    "unbroken",
                    "in_shadow",
                )
            },
        ),
        (
            "Asked",
            {
                "fields": (
                    "subject_kind",
                    "tool_name",
                    "model_name",
                    "agent_name",
                    "asked_by",
                    "decided_at",
                    "findings",
                    "request",
                )
            },
        ),
        ("Rules evaluated", {"fields": ("policy_hash", "rule_hash", "rules", "its_parameters")}),
        (
            "Cost and use",
            {
                "fields": (
                    "cost_limits",
                    "usage",
                    "budgets",
                    "possible_labels",
                )
            },
        ),
        (
            "Outcome of the act",
            {
                "fields": (
                    "act_outcome",
                    "act_cost",
                    "act_estimated",
                    "labels_added",
                    "settled_at",
                )
            },
        ),
        (
            "Behind it",
            {"fields": ("id", "workspace_id", "session_id", "trace_id", "created_at", "events", "proof")},
        ),
    )
    readonly_fields = (
        "request",
        "request_withheld",
        "events",
        "proof",
        "rules",
        "rule_page",
        "approval_page",
        "grant_pages",
        "glass_page",
        "unbroken",
        "in_shadow",
        "asked_by",
        "its_parameters",
        "cost_limits",
        "usage",
        "budgets",
        "act_cost",
    )
    exported_columns = EXPORTED_COLUMNS

    def get_fieldsets(self, request: HttpRequest, obj: PolicyDecision | None = None) -> Any:
        """Show exact requests, which hold what people wrote, to those who read them over REST too."""
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None:
            return fieldsets
        reader = console_caller(request.user, obj.workspace_id)
        if reader is not None and may_read_request(obj, reader):
            return fieldsets
        return [
            (
                title,
                {
                    **options,
                    "fields": tuple(
                        "request_withheld" if name == "request" else name for name in options["fields"]
                    ),
                },
            )
            for title, options in fieldsets
        ]

    def get_urls(self) -> list[URLPattern]:
        """Add the page that decides again, and the capsule."""
        wrapped = self.admin_site.admin_view
        return [
            path(
                "<uuid:decision_id>/again/", wrapped(self.again_view), name="governance_policydecision_again"
            ),
            path(
                "<uuid:decision_id>/capsule/",
                wrapped(self.capsule_view),
                name="governance_policydecision_capsule",
            ),
            *super().get_urls(),
        ]

    def again_view(self, request: HttpRequest, decision_id: UUID) -> HttpResponse:
        """Decide the stored request again under the policy of that time, and show both verdicts."""
        row: PolicyDecision | None = self.found(request, decision_id)
        if row is None:
            raise Http404
        recorded = decision_made(decision_id)
        made = recorded.event
        assert isinstance(made, DecisionMade)  # noqa: S101 # what decision_made returns
        before, problem, after = verdict_of(made), "", None
        try:
            after = redecide(recorded)
        except CartritaError as error:
            problem = error.message
        context = {
            "title": _("Decided again"),
            "row": row,
            "address": row_address("policydecision", row.pk),
            "errors": [problem] if problem else [],
            "sides": side_by_side(before, after) if after else [],
            "rules": rules_side_by_side(before, after) if after else [],
            "same": after is not None and in_order(before) == in_order(after),
            "events": events_behind(row.pk),
        }
        return self.page(request, "policydecision/again.html", context, status=200 if after else 409)

    def capsule_view(self, request: HttpRequest, decision_id: UUID) -> HttpResponse:
        """Return the decision with what proves it as a file; the log says who took it along."""
        row: PolicyDecision | None = self.found(request, decision_id)
        if row is None:
            raise Http404
        try:
            content = decision_capsule(decision_id)
        except CartritaError as error:
            messages.error(request, error.message)
            return redirect(row_address("policydecision", row.pk))
        record_export(
            actor=f"user:{request.user.pk}", what="decision capsules", workspaces=[row.workspace_id]
        )
        return capsule_answer(decision_id, content)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[PolicyDecision], search_term: str
    ) -> tuple[QuerySet[PolicyDecision], bool]:
        """Find decisions by the ids and names around them."""
        del request
        term = search_term.strip()
        if not term:
            return queryset, False
        found = (
            Q(policy_rule=term)
            | Q(tool_name=term)
            | Q(model_name=term)
            | Q(agent_name=term)
            | Q(trace_id=term)
        )
        uuid = as_uuid(term)
        if uuid is not None:
            found |= Q(id=uuid) | Q(session_id=uuid) | Q(workspace_id=uuid)
        return queryset.filter(found), False

    @admin.display(description="subject")
    def subject(self, row: PolicyDecision) -> str:
        """Return the tool or the model that the decision is about."""
        return row.tool_name or row.model_name or "—"

    @admin.display(description="exact request")
    def request(self, row: PolicyDecision) -> SafeString:
        """Return the request as indented JSON, or say that it is erased."""
        opened = unseal_or_empty(row.key_id, row.request_context) if row.key_id else ""
        if not opened:
            return format_html("<em>{}</em>", "erased")
        # ASCII escapes make control, bidirectional and look-alike characters visible.
        return format_html("<pre>{}</pre>", json.dumps(json.loads(opened), indent=2, ensure_ascii=True))

    @admin.display(description=gettext_lazy("exact request"))
    def request_withheld(self, row: PolicyDecision) -> str:
        """Return who may read the request."""
        if row.subject_kind == "message_out":
            return _(
                "Withheld: reviewers, auditors and administrators of the workspace read it, but not the "
                "person who asked for this answer, unless it was let through."
            )
        return _(
            "Withheld: reviewers, auditors and administrators of the workspace read exact requests, "
            "and the person whose act it is."
        )

    @admin.display(description=gettext_lazy("policy rule"))
    def rule_page(self, row: PolicyDecision) -> SafeString | str:
        """Return the deciding rule, with the way to its page where the draft knows it."""
        rule = PolicyRule.objects.filter(workspace_id=row.workspace_id, name=row.policy_rule).first()
        return link(row_address("policyrule", rule.pk), row.policy_rule) if rule else row.policy_rule

    @admin.display(description=gettext_lazy("waits for the approval"))
    def approval_page(self, row: PolicyDecision) -> SafeString | str:
        """Return the way to the approval that an escalated act waits for."""
        return link(row_address("approval", row.approval_id), row.approval_id) if row.approval_id else "—"

    @admin.display(description=gettext_lazy("approvals used"))
    def grant_pages(self, row: PolicyDecision) -> SafeString | str:
        """Return the ways to the approvals that let the act pass."""
        used = ((row_address("approval", each), each) for each in row.grants)
        return format_html_join(", ", '<a href="{}">{}</a>', used) or "—"

    @admin.display(description=gettext_lazy("break-glass"))
    def glass_page(self, row: PolicyDecision) -> SafeString | str:
        """Return who had opened the break-glass that was in force, until when and why, with the way to it."""
        glass = BreakGlass.objects.filter(pk=row.glass_id).first() if row.glass_id else None
        if glass is None:
            return str(row.glass_id or "—")
        said = _("open until %(until)s, by %(by)s: “%(reason)s”") % {
            "until": in_utc(glass.until),
            "by": names_of([glass.by])[glass.by],
            "reason": shown(glass.reason),
        }
        return link(row_address("breakglass", glass.pk), said)

    @admin.display(description=gettext_lazy("Without break-glass"))
    def unbroken(self, row: PolicyDecision) -> str:
        """Return what would have been decided without break-glass, where that is something else."""
        if not row.unbroken_outcome:
            return "—"
        if (row.unbroken_outcome, row.unbroken_rule) == (row.decision, row.policy_rule):
            return _("the same, with more taken or left out")
        said = _("%(outcome)s by %(rule)s")
        return said % {"outcome": row.unbroken_outcome, "rule": row.unbroken_rule}

    @admin.display(description=gettext_lazy("In shadow"))
    def in_shadow(self, row: PolicyDecision) -> str:
        """Return what the set in shadow would have decided, where there was one."""
        if not row.shadow_hash:
            return "—"
        said = _("%(outcome)s by %(rule)s (set %(hash)s)")
        outcome = row.shadow_outcome or _("nothing")
        return said % {"outcome": outcome, "rule": row.shadow_rule, "hash": row.shadow_hash[:12]}

    @admin.display(description=gettext_lazy("budgets"))
    def budgets(self, row: PolicyDecision) -> SafeString | str:
        """Return what the act holds back of each budget, which one decided, and which ones it warned of."""
        held = {UUID(each["budget"]): each for each in row.reserved}
        concerned = dict.fromkeys((*held, *([row.budget_id] if row.budget_id else []), *row.warnings))
        rows = Budget.objects.in_bulk(list(concerned))

        def said(budget_id: UUID) -> str:
            parts = []
            if reserved := held.get(budget_id):
                unit = rows[budget_id].currency if budget_id in rows else row.currency
                amount = _amounts(reserved["tokens"], reserved["micros"], unit)
                parts.append(_("%(amount)s held back") % {"amount": amount})
            if budget_id == row.budget_id:
                parts.append(_("decided"))
            if budget_id in row.warnings:
                parts.append(_("at its warning"))
            return ", ".join(parts)

        lines = (
            (
                # The bound of a plan's task has no page.
                link(row_address("budget", each), rows[each].name)
                if each in rows
                else _("the bound of its task"),
                said(each),
            )
            for each in concerned
        )
        listed = format_html_join("", "<li>{}: {}</li>", lines)
        return format_html("<ul>{}</ul>", listed) if listed else "—"

    @admin.display(description=gettext_lazy("asked by"))
    def asked_by(self, row: PolicyDecision) -> str:
        """Return who asked, with their roles."""
        actor = row.user_context.get("actor", "")
        roles = ", ".join(row.user_context.get("roles", ()))
        name = names_of([actor])[actor] if actor else "—"
        return f"{name} ({roles})" if roles else name

    @admin.display(description=gettext_lazy("parameters"))
    def its_parameters(self, row: PolicyDecision) -> SafeString | str:
        """Return the parameters of the deciding rule, a line each."""
        lines = [(name, _written(value)) for name, value in sorted(row.parameters.items())]
        return format_html("<ul>{}</ul>", format_html_join("", "<li>{}: {}</li>", lines)) if lines else "—"

    @admin.display(description=gettext_lazy("tightest limit in money"))
    def cost_limits(self, row: PolicyDecision) -> str:
        """Return what the tightest budget allowed in money, before and after the act."""
        before, after = row.cost_limit_before, row.cost_limit_after
        if before is None and after is None:
            return "—"
        return _("%(before)s before, %(after)s after") % {
            "before": _money(before, row.currency),
            "after": _money(after, row.currency),
        }

    @admin.display(description=gettext_lazy("use in its budget"))
    def usage(self, row: PolicyDecision) -> str:
        """Return what was used and held back before and after the act."""
        before, after = (
            _amounts(used.get("tokens", 0), used.get("micros", 0), row.currency)
            for used in (row.resource_usage_before, row.resource_usage_after)
        )
        return _("%(before)s before, %(after)s after") % {"before": before, "after": after}

    @admin.display(description=gettext_lazy("cost of the act"))
    def act_cost(self, row: PolicyDecision) -> str:
        """Return what the act cost, once that is known."""
        if row.act_tokens is None and row.act_cost_micros is None:
            return "—"
        return _amounts(row.act_tokens or 0, row.act_cost_micros or 0, row.act_currency or row.currency)

    @admin.display(description=gettext_lazy("rules"))
    def rules(self, row: PolicyDecision) -> SafeString | str:
        """Return what each rule gave, those that matched first."""
        given = (
            *((name, _RESULTS["matched"]) for name in row.matched),
            *((name, _RESULTS["error"]) for name in row.erred),
            *((name, _RESULTS["not_matched"]) for name in row.not_matched),
        )
        return format_html("<ul>{}</ul>", format_html_join("", "<li>{}: {}</li>", given)) if given else "—"

    @admin.display(description="events")
    def events(self, row: PolicyDecision) -> SafeString:
        """Return the events of the decision's stream, and a link to them in the log."""
        return events_behind(row.pk)

    @admin.display(description=gettext_lazy("proof"))
    def proof(self, row: PolicyDecision) -> SafeString:
        """Return what verifying the decision against the newest signed head comes to, at this moment."""
        proven = prove_decision(row.pk)
        heads = reverse("admin:eventstore_treehead_changelist")
        if proven.report is None:
            said = _("Not proven yet: %(problem)s") if proven.beyond else _("NOT VERIFIED: %(problem)s")
            return format_html("<strong>{}</strong>", said % {"problem": proven.problem})
        report = proven.report
        verified = _("Verified up to the signed head of %(size)s events") % {"size": report.size}
        signers = _("Signed by %(keys)s") % {"keys": ", ".join(report.signed_by)}
        return format_html(
            '<p><strong>{}</strong></p><ul>{}</ul><p><a href="{}">{}</a></p>',
            verified,
            format_html_join("", "<li>{}</li>", ((line,) for line in (*report.says, signers))),
            heads,
            _("All signed heads"),
        )


def _money(micros: int | None, currency: str) -> str:
    return "—" if micros is None else f"{plain(micros)} {currency}"


def _amounts(tokens: int, micros: int, currency: str) -> str:
    said = ngettext("%(tokens)s token", "%(tokens)s tokens", tokens) % {"tokens": f"{tokens:,}"}
    return f"{said}, {_money(micros, currency)}"


def _written(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(each, str | int | float) for each in value):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def differences(before: Verdict, after: Verdict) -> list[str]:
    """Return what differs between two verdicts, and the rules that gave another result."""
    return [
        *(str(label) for label, one, other, _same in side_by_side(before, after) if one != other),
        *(name for name, one, other in rules_side_by_side(before, after) if one != other),
    ]


def side_by_side(before: Verdict, after: Verdict) -> list[tuple[str, str, str, bool]]:
    """Return two verdicts line by line: label, first, second, whether they are equal."""
    return [
        (label, one, other, one == other)
        for (label, one), (__, other) in zip(_lines(before), _lines(after), strict=True)
    ]


def rules_side_by_side(before: Verdict, after: Verdict) -> list[tuple[str, str, str]]:
    """Return what each rule gave in two verdicts; a dash where a set does not have it."""
    first = {result.rule: result.result for result in before.evaluated}
    second = {result.rule: result.result for result in after.evaluated}

    def said(results: Mapping[str, str], name: str) -> str:
        return str(_RESULTS[results[name]]) if name in results else "—"

    return [(name, said(first, name), said(second, name)) for name in dict.fromkeys((*second, *first))]


def _lines(verdict: Verdict) -> Iterator[tuple[str, str]]:
    yield _("Outcome"), verdict.outcome
    yield _("Rule"), verdict.rule
    yield _("Reason"), verdict.reason
    yield _("Marked for review"), _("yes") if verdict.review else _("no")
    yield _("Message for the agent"), verdict.message_for_agent
    yield _("Message for people"), verdict.message_for_people
    yield _("Left out"), ", ".join(verdict.left_out)
    yield _("Taken out"), ", ".join(verdict.redact)
    yield _("Approvals used"), ", ".join(map(str, verdict.grants))
    yield _("Wait"), "" if verdict.retry_after_ms is None else f"{verdict.retry_after_ms} ms"
    yield _("Without break-glass"), " · ".join(verdict.unbroken or ())
    yield _("Taken out without break-glass"), ", ".join(verdict.unbroken_redact)
    yield _("Left out without break-glass"), ", ".join(verdict.unbroken_left_out)
    yield _("Parameters"), json.dumps(dict(verdict.parameters), sort_keys=True) if verdict.parameters else ""
