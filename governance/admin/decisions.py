"""Decisions in the admin: to read, with the events behind each."""

import json
from uuid import UUID

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from cartrita.eventstore import RecordedEvent, load, unseal_or_empty
from cartrita.eventstore.admin import ReadOnlyAdmin, as_uuid
from governance.models import PolicyDecision


@admin.register(PolicyDecision)
class PolicyDecisionAdmin(ReadOnlyAdmin):
    """Decisions with their verdict, exact request and outcome."""

    list_display = (
        "created_at",
        "subject_kind",
        "subject",
        "decision",
        "policy_rule",
        "review",
        "agent_name",
        "act_outcome",
    )
    list_filter = ("decision", "subject_kind", "review", "act_outcome", "policy_rule")
    search_fields = ("id",)
    search_help_text = "A decision, session or workspace id, a trace id, or a rule, tool, model or agent"
    date_hierarchy = "created_at"
    fieldsets = (
        (
            "Verdict",
            {
                "fields": (
                    "decision",
                    "policy_rule",
                    "reason",
                    "review",
                    "message_for_agent",
                    "message_for_people",
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
                    "user_context",
                    "decided_at",
                    "request",
                )
            },
        ),
        ("Rules evaluated", {"fields": ("policy_hash", "matched", "not_matched", "erred", "parameters")}),
        (
            "Cost and use",
            {
                "fields": (
                    "currency",
                    "cost_limit_before",
                    "cost_limit_after",
                    "resource_usage_before",
                    "resource_usage_after",
                )
            },
        ),
        (
            "Outcome of the act",
            {
                "fields": (
                    "act_outcome",
                    "act_cost_micros",
                    "act_currency",
                    "act_tokens",
                    "act_estimated",
                    "labels_added",
                    "settled_at",
                )
            },
        ),
        ("Behind it", {"fields": ("id", "workspace_id", "session_id", "trace_id", "created_at", "events")}),
    )
    readonly_fields = ("request", "events")

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

    @admin.display(description="events")
    def events(self, row: PolicyDecision) -> SafeString:
        """Return the events of the decision's stream, and a link to them in the log."""
        rows = format_html_join("", "<li>{} · {} · {}</li>", (_line(recorded) for recorded in load(row.id)))
        page = f"{reverse('admin:eventstore_orderedevent_changelist')}?q={row.id}"
        return format_html('<ol>{}</ol><a href="{}">In the event log</a>', rows, page)


def _line(recorded: RecordedEvent) -> tuple[str, str, UUID]:
    return recorded.type_name, recorded.recorded_at.isoformat(), recorded.event_id
