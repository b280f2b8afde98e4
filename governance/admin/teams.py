"""Teams in the admin: who is in them, their budgets, and the forms that make, fill, rename and close them."""

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from cartrita.accounts import team_commands as commands
from cartrita.accounts.console import TEAM_ROLES
from cartrita.accounts.models import Membership, Team, User
from cartrita.accounts.queries import Caller
from cartrita.accounts.team import NAME_LIMIT
from cartrita.accounts.team_queries import TeamEntry, team, teams_of
from cartrita.http.pagination import LARGEST_LIMIT
from governance.admin.budgets import Line, lines_of
from governance.admin.pages import CommandForm, ConsolePage, events_behind, put_in
from governance.queries.budgets import tree


class New(CommandForm):
    """A team, with those who are in it from the beginning."""

    title = gettext_lazy("New team")
    button = gettext_lazy("Create the team")
    done = gettext_lazy("The team is created.")

    name = forms.CharField(label=gettext_lazy("Name"), max_length=NAME_LIMIT)
    members = forms.MultipleChoiceField(
        label=gettext_lazy("Who is in it"), required=False, widget=forms.CheckboxSelectMultiple
    )

    def __init__(self, data: Any = None, *, workspace_id: UUID) -> None:
        super().__init__(data, prefix="new")
        _offer(self.fields["members"], _people(workspace_id))

    def carry_out(self, caller: Caller) -> None:
        """Create the team."""
        given = self.cleaned_data
        commands.create_team(
            caller=caller, name=given["name"], members=[UUID(one) for one in given["members"]]
        )


class Join(CommandForm):
    """Somebody more in a team."""

    title = gettext_lazy("Let somebody join")
    button = gettext_lazy("Let them join")
    done = gettext_lazy("The team has another member.")
    aliases: ClassVar[Mapping[str, str]] = {"members": "person"}

    person = forms.ChoiceField(
        label=gettext_lazy("Who"),
        help_text=gettext_lazy("The team's budgets count for what they ask for from now on."),
    )

    def __init__(self, data: Any = None, *, of: TeamEntry) -> None:
        super().__init__(data, prefix="join")
        self.of = of
        inside = {str(mate.user_id) for mate in of.members}
        _offer(self.fields["person"], [one for one in _people(of.workspace_id) if one[0] not in inside])

    def carry_out(self, caller: Caller) -> None:
        """Let the person join."""
        commands.change_team(team_id=self.of.id, caller=caller, joining=[UUID(self.cleaned_data["person"])])


class Leave(CommandForm):
    """Somebody less in a team."""

    title = gettext_lazy("Take somebody out")
    button = gettext_lazy("Take out")
    done = gettext_lazy("The team has a member less; what they have under way stays booked on it.")

    person = forms.UUIDField(widget=forms.HiddenInput)

    def __init__(self, data: Any = None, *, of: TeamEntry) -> None:
        super().__init__(data, prefix="leave")
        self.of = of

    def carry_out(self, caller: Caller) -> None:
        """Let the person leave."""
        commands.change_team(team_id=self.of.id, caller=caller, leaving=[self.cleaned_data["person"]])


class Rename(CommandForm):
    """Another name for a team."""

    title = gettext_lazy("Rename it")
    button = gettext_lazy("Rename the team")
    done = gettext_lazy("The team is renamed.")

    name = forms.CharField(
        label=gettext_lazy("New name"),
        max_length=NAME_LIMIT,
        help_text=gettext_lazy("Rules that read the old one find this team no more."),
    )

    def __init__(self, data: Any = None, *, of: TeamEntry) -> None:
        super().__init__(data, prefix="rename", initial={"name": of.name})
        self.of = of

    def carry_out(self, caller: Caller) -> None:
        """Rename the team."""
        commands.change_team(team_id=self.of.id, caller=caller, name=self.cleaned_data["name"])


class Close(CommandForm):
    """The end of a team."""

    title = gettext_lazy("Close it")
    button = gettext_lazy("Close the team")
    done = gettext_lazy("The team is closed: its budgets limit nobody any more.")
    dangerous = True

    sure = forms.BooleanField(
        label=gettext_lazy("Close it for good"),
        help_text=gettext_lazy("A closed team is not opened again, and its budgets limit nobody."),
    )

    def __init__(self, data: Any = None, *, of: TeamEntry) -> None:
        super().__init__(data, prefix="close")
        self.of = of

    def carry_out(self, caller: Caller) -> None:
        """Close the team."""
        commands.close_team(team_id=self.of.id, caller=caller)


_FORMS: Mapping[str, type[Join | Leave | Rename | Close]] = {
    "join": Join,
    "leave": Leave,
    "rename": Rename,
    "close": Close,
}


@admin.register(Team)
class TeamAdmin(ConsolePage):
    """The teams of a workspace."""

    def get_urls(self) -> list[URLPattern]:
        """Add the forms."""
        wrapped = self.admin_site.admin_view
        return [
            path("new/", wrapped(self.new_view), name="accounts_team_new"),
            path(
                "<uuid:team_id>/command/<slug:act>/", wrapped(self.command_view), name="accounts_team_command"
            ),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: Mapping[str, Any] | None = None
    ) -> HttpResponse:
        """Show the teams of a workspace, with who is in them and their budgets."""
        workspace = self.workspace(request)
        with_closed = "closed" in request.GET
        found = teams_of(workspace.pk, closed=with_closed, limit=LARGEST_LIMIT).items
        lines = lines_of(tree(workspace.pk, timezone.now()))
        context = {
            "title": _("Teams"),
            "workspace": workspace,
            "workspaces": self.workspaces(request),
            "teams": [
                {"team": each, "address": _address(each.id), "budgets": _of_team(lines, each.id)}
                for each in found
            ],
            "with_closed": with_closed,
            "may_change": self.caller(request, workspace.pk, TEAM_ROLES) is not None,
            **(extra_context or {}),
        }
        return self.page(request, "team/list.html", context)

    def new_view(self, request: HttpRequest) -> HttpResponse:
        """Create a team."""
        workspace = self.workspace(request)
        caller = self.must_be(request, workspace.pk, TEAM_ROLES)
        form = New(request.POST if request.method == "POST" else None, workspace_id=workspace.pk)
        return self.begun(request, form, caller, template="team/new.html", workspace=workspace)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: Mapping[str, Any] | None = None,
    ) -> HttpResponse:
        """Show one team."""
        del form_url, extra_context
        row: Team | None = self.found(request, object_id)
        if row is None:
            return self.not_there(request, object_id)
        return self._team_page(request, row)

    def command_view(self, request: HttpRequest, team_id: UUID, act: str) -> HttpResponse:
        """Call the command of a form, and come back to the page."""
        row: Team | None = self.found(request, team_id)
        if row is None or act not in _FORMS:
            raise Http404
        if request.method != "POST":
            return redirect(_address(row.pk))
        caller = self.must_be(request, row.workspace_id, TEAM_ROLES)
        form = _FORMS[act](request.POST, of=team(row.pk, row.workspace_id))
        status = form.carried_out(caller)
        if not status:
            messages.success(request, str(form.done))
            return redirect(_address(row.pk))
        return self._team_page(request, row, answered=form, status=status)

    def _team_page(
        self, request: HttpRequest, row: Team, *, answered: CommandForm | None = None, status: int = 200
    ) -> HttpResponse:
        found = team(row.pk, row.workspace_id)
        offered: list[CommandForm] = []
        if not found.closed and self.caller(request, row.workspace_id, TEAM_ROLES) is not None:
            offered = [Join(of=found), Rename(of=found), Close(of=found)]
        errors = put_in(offered, answered)
        context = {
            "title": found.name,
            "team": found,
            "lines": _of_team(lines_of(tree(row.workspace_id, timezone.now())), found.id),
            "forms": offered,
            "errors": errors,
            "events": events_behind(row.pk),
        }
        return self.page(request, "team/one.html", context, status=status)


def _of_team(lines: list[Line], team_id: UUID) -> list[Line]:
    return [line for line in lines if line.budget.scope_kind == "team" and line.budget.scope == str(team_id)]


def _address(team_id: UUID) -> str:
    return reverse("admin:accounts_team_change", args=[team_id])


def _people(workspace_id: UUID) -> list[tuple[str, str]]:
    members = Membership.objects.filter(workspace_id=workspace_id).values_list("user_id", flat=True)
    people = User.objects.filter(pk__in=members).order_by("display_name", "email")
    return [
        (str(person.pk), f"{person.display_name} ({person.email})" if person.display_name else person.email)
        for person in people
    ]


def _offer(field: forms.Field, choices: list[tuple[str, str]]) -> None:
    assert isinstance(field, forms.ChoiceField)  # noqa: S101 # those of this module are declared so
    field.choices = choices
