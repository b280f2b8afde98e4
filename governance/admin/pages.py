"""What the console's pages have in common: whose rows they show, who may act, the events behind them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from cartrita.accounts.console import console_caller, names_of, workspaces_for
from cartrita.accounts.models import Workspace
from cartrita.accounts.queries import Caller
from cartrita.errors import CartritaError
from cartrita.eventstore import RecordedEvent, load
from cartrita.eventstore.admin import ReadOnlyAdmin, as_uuid
from governance.commands.exports import record_export
from governance.queries.break_glass import in_force
from governance.spreadsheet import as_csv, csv_answer
from governance.visible_text import shown

MOST_EXPORTED = 10_000
MICROS = 1_000_000
GLASS_SCOPES = {
    "workspace": gettext_lazy("the whole workspace"),
    "session": gettext_lazy("one session"),
    "user": gettext_lazy("one person"),
}


class ConsolePage(ReadOnlyAdmin):
    """Read-only rows whose pages carry forms: each calls one command, as a caller of the row's workspace."""

    def page(
        self, request: HttpRequest, template: str, context: Mapping[str, Any], *, status: int = 200
    ) -> TemplateResponse:
        """Answer with a page of the console."""
        given = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            **context,
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, f"admin/governance/{template}", given, status=status)

    def found(self, request: HttpRequest, object_id: object) -> Any:
        """Return the row of that id where the person looks after its workspace, None otherwise."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        row_id = as_uuid(str(object_id))
        return self.get_queryset(request).filter(pk=row_id).first() if row_id else None

    def not_there(self, request: HttpRequest, object_id: object) -> HttpResponse:
        """Say that there is no such row, as Django's own pages do."""
        missing = _("There is no %(name)s with the id “%(id)s” here.") % {
            "name": self.opts.verbose_name,
            "id": str(object_id)[:100],
        }
        messages.warning(request, missing)
        return HttpResponse(status=302, headers={"Location": reverse("admin:index")})

    def workspaces(self, request: HttpRequest) -> list[Workspace]:
        """Return the workspaces that the person looks after. Raises PermissionDenied without any."""
        found = workspaces_for(request.user)
        if not (found and self.has_view_permission(request)):
            raise PermissionDenied
        return found

    def workspace(self, request: HttpRequest) -> Workspace:
        """Return the workspace that the address names, the first one where it names none.

        Raises PermissionDenied for one that the person does not look after.
        """
        found = self.workspaces(request)
        named = request.GET.get("workspace") or request.POST.get("workspace")
        if not named:
            return found[0]
        for workspace in found:
            if workspace.pk == as_uuid(named):
                return workspace
        raise PermissionDenied

    def caller(self, request: HttpRequest, workspace_id: UUID, roles: Iterable[str]) -> Caller | None:
        """Return the person as a caller who holds one of the roles in the workspace, None for others."""
        found = console_caller(request.user, workspace_id)
        return found if found and not found.roles.isdisjoint(roles) else None

    def must_be(self, request: HttpRequest, workspace_id: UUID, roles: Iterable[str]) -> Caller:
        """Return the same, for a change. Raises PermissionDenied."""
        found = self.caller(request, workspace_id, roles)
        if found is None:
            raise PermissionDenied
        return found

    def begun(
        self,
        request: HttpRequest,
        form: "CommandForm",
        caller: Caller,
        *,
        template: str,
        workspace: Workspace,
        **more: Any,
    ) -> HttpResponse:
        """Carry out the form that begins something, and go to the list of these; or show the form."""
        status = form.carried_out(caller) if request.method == "POST" else 200
        if not status:
            messages.success(request, str(form.done))
            these = reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")
            return redirect(f"{these}?workspace={workspace.pk}")
        context = {
            "title": form.title,
            "workspace": workspace,
            "form": form,
            "errors": summary(form),
            **more,
        }
        return self.page(request, template, context, status=status)


class CommandForm(forms.Form):
    """A form that calls one command. `aliases` says which field an error of the command's field stands at."""

    title: ClassVar[Any]
    button: ClassVar[Any]
    done: ClassVar[Any]
    dangerous: ClassVar[bool] = False
    aliases: ClassVar[Mapping[str, str]] = {}

    def carry_out(self, caller: Caller) -> None:
        """Call the command."""
        raise NotImplementedError

    def carried_out(self, caller: Caller) -> int:
        """Call the command; return 0, or the HTTP status of what is wrong, which the form then says."""
        if not self.is_valid():
            return 400
        try:
            self.carry_out(caller)
        except CartritaError as error:
            named = (error.field or "").partition(".")[0]
            field = self.aliases.get(named, named)
            shown = field in self.fields and not self[field].is_hidden
            self.add_error(field if shown else None, error.message)
            return error.status
        return 0


def break_glass_notices(workspace_ids: Iterable[UUID]) -> list[dict[str, Any]]:
    """Return what pages say of the break-glass that is in force in these workspaces."""
    rows = in_force(list(workspace_ids), at=timezone.now())
    people = names_of([row.by for row in rows])
    return [
        {
            "by": people[row.by],
            "reason": shown(row.reason),
            "until": row.until,
            "scope": GLASS_SCOPES[row.scope_kind],
            "address": row_address("breakglass", row.pk),
        }
        for row in rows
    ]


def put_in(offered: list[Any], answered: CommandForm | None) -> list[str]:
    """Put the form that was sent back among those of the page, and return what the top of the page says.

    A form that is offered no more (somebody was quicker) says everything there.
    """
    if answered is None:
        return []
    for place, form in enumerate(offered):
        if form.prefix == answered.prefix:
            offered[place] = answered
            return summary(answered)
    return [str(error) for errors in answered.errors.values() for error in errors]


def summary(form: CommandForm) -> list[str]:
    """Return what the top of the page says of a form that was sent: what stands at no field of it."""
    if not form.errors:
        return []
    found = [str(error) for error in form.non_field_errors()]
    return found or [_("Nothing was recorded: correct what is marked below.")]


def events_behind(stream_id: UUID, recorded: Sequence[RecordedEvent] | None = None) -> SafeString:
    """Return the events of a stream as a list, and a link to them in the event browser."""
    events = load(stream_id) if recorded is None else recorded
    names = names_of(each.actor for each in events)
    lines = (
        (each.type_name, each.recorded_at.isoformat(), in_utc(each.recorded_at), names[each.actor])
        for each in events
    )
    rows = format_html_join("", '<li>{} · <time datetime="{}">{}</time> · {}</li>', lines)
    return format_html(
        '<ol class="events">{}</ol><a href="{}">{}</a>', rows, event_log(stream_id), _("In the event log")
    )


def in_utc(at: datetime) -> str:
    """Return a time as the console's pages write it: to the second, with its zone."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def event_log(stream_id: UUID) -> str:
    """Return the address of a stream's events in the event browser."""
    return f"{reverse('admin:eventstore_orderedevent_changelist')}?q={stream_id}"


def link(address: str, text: object) -> SafeString:
    """Return a link."""
    return format_html('<a href="{}">{}</a>', address, text)


def row_address(model: str, row_id: object) -> str:
    """Return the address of a row's page of one of governance's models."""
    return reverse(f"admin:governance_{model}_change", args=[row_id])


def plain(micros: int) -> str:
    """Return micro-units as a number of whole units."""
    return f"{(Decimal(micros) / MICROS).normalize():f}"


def indented(value: Any) -> str:
    """Return JSON on several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def exported(rows: Iterable[Any], columns: Sequence[str], name: str) -> HttpResponse:
    """Return rows as a CSV file with these columns."""
    return csv_answer(as_csv(columns, ([getattr(row, column) for column in columns] for row in rows)), name)


class Exports(ReadOnlyAdmin):
    """Rows that can be taken along as CSV: the chosen ones, at most 10,000 at a time."""

    actions: Any = ("export_csv",)
    exported_columns: tuple[str, ...] = ()

    def export_csv(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Return the chosen rows as CSV, with cells that look like formulas quoted."""
        rows = list(queryset[: MOST_EXPORTED + 1])
        if len(rows) > MOST_EXPORTED:
            many = _("At most %(most)s rows can be exported at a time; choose fewer with the filters.")
            messages.error(request, many % {"most": MOST_EXPORTED})
            return None
        record_export(
            actor=f"user:{request.user.pk}",
            what=str(self.opts.verbose_name_plural),
            workspaces=[row.workspace_id for row in rows],
        )
        return exported(rows, self.exported_columns, str(self.opts.model_name))

    export_csv.short_description = gettext_lazy("Export the chosen rows as CSV")  # type: ignore[attr-defined]
    export_csv.allowed_permissions = ("view",)  # type: ignore[attr-defined]
