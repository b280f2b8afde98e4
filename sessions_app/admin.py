"""Read-only pages of sessions and messages. Their text stays sealed: to look after is not to read along."""

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from cartrita.accounts.console import names_of
from cartrita.eventstore.admin import ReadOnlyAdmin, as_uuid
from governance.queries.break_glass import in_force_for, passed_at
from sessions_app.models import ChatSession, Message


class ByIdAdmin(ReadOnlyAdmin):
    """A page whose search takes ids."""

    id_fields: ClassVar[tuple[str, ...]] = ("id",)
    search_fields = ("id",)
    search_help_text = _("An id")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find rows by the ids in them."""
        del request
        if not search_term.strip():
            return queryset, False
        uuid = as_uuid(search_term)
        if uuid is None:
            return queryset.none(), False
        found = Q()
        for name in self.id_fields:
            found |= Q(**{name: uuid})
        return queryset.filter(found), False


@admin.register(ChatSession)
class ChatSessionAdmin(ByIdAdmin):
    """The sessions."""

    list_display = ("id", "user_id", "kind", "status", "message_count", "created_at", "last_activity_at")
    list_filter = ("status", "kind")
    date_hierarchy = None
    ordering = ("-created_at", "-id")
    id_fields = ("id", "user_id", "workspace_id")
    fields: ClassVar[tuple[str, ...]] = (
        "id",
        "workspace_id",
        "user_id",
        "key_id",
        "kind",
        "status",
        "message_count",
        "version",
        "created_at",
        "last_activity_at",
        "its_break_glass",
        "its_messages",
        "its_events",
    )
    readonly_fields = fields

    @admin.display(description=_("break-glass"))
    def its_break_glass(self, row: ChatSession) -> SafeString | str:
        """Return the break-glass that is in force for the session, and how much it let pass in it."""
        now = timezone.now()
        rows = in_force_for(row.workspace_id, session_id=row.id, requester_id=row.user_id, at=now)
        names = names_of([each.by for each in rows])
        address = "admin:governance_breakglass_change"
        parts = [
            format_html(
                '<a href="{}">{}</a>',
                reverse(address, args=[each.id]),
                gettext("open until %(until)s UTC, by %(by)s")
                % {"until": f"{each.until:%Y-%m-%d %H:%M:%S}", "by": names[each.by]},
            )
            for each in rows
        ]
        if passed := len(passed_at(row.workspace_id, row.id)):
            decisions = reverse("admin:governance_policydecision_changelist")
            said = ngettext("it let %(acts)s act pass", "it let %(acts)s acts pass", passed)
            parts.append(format_html('<a href="{}?q={}">{}</a>', decisions, row.id, said % {"acts": passed}))
        return format_html_join("; ", "{}", ((each,) for each in parts)) or "—"

    @admin.display(description=_("messages"))
    def its_messages(self, row: ChatSession) -> SafeString:
        """Link to the messages."""
        address = reverse("admin:sessions_app_message_changelist")
        return format_html('<a href="{}?q={}">{}</a>', address, row.id, row.message_count)

    @admin.display(description=_("events"))
    def its_events(self, row: ChatSession) -> SafeString:
        """Link to the events."""
        address = reverse("admin:eventstore_orderedevent_changelist")
        return format_html('<a href="{}?q={}">{}</a>', address, row.id, _("Show events"))


@admin.register(Message)
class MessageAdmin(ByIdAdmin):
    """The messages, without their text."""

    list_display = ("message_id", "session_id", "version", "role", "author", "model", "outcome", "created_at")
    list_filter = ("role", "outcome")
    ordering = ("-created_at", "-id")
    id_fields = ("id", "message_id", "session_id", "plan_id", "run_id")
    fields: ClassVar[tuple[str, ...]] = (
        "message_id",
        "session_id",
        "workspace_id",
        "version",
        "parent_id",
        "role",
        "author",
        "key_id",
        "plan_id",
        "run_id",
        "model",
        "outcome",
        "attachments",
        "cancel_requested_at",
        "created_at",
    )
    readonly_fields = fields
