"""The page of one's API tokens: a list, a form, and the secret of a new one, shown once."""

from datetime import timedelta
from typing import Any, get_args
from uuid import UUID

from django import forms
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from cartrita.accounts import commands, queries
from cartrita.accounts.api_token import (
    DEFAULT_LIFETIME,
    LONGEST_LIFETIME,
    NAME_LIMIT,
    Scope,
    grantable_scopes,
)
from cartrita.accounts.authentication import caller
from cartrita.accounts.queries import Caller
from cartrita.errors import CartritaError

# What each scope is for, beside its name.
SCOPE_WORDS = {
    "read": _("read: sessions, documents, searches, sockets"),
    "write": _("write: post messages, send documents, decide"),
    "tokens": _("tokens: list, create and revoke your tokens"),
    "import": _("import: post messages in other roles than user"),
    "act_as": _("act_as: open sessions for other members"),
}


class NewTokenForm(forms.Form):
    """What a new token is for; only what this person may grant is among the scopes."""

    name = forms.CharField(max_length=NAME_LIMIT)
    scopes = forms.MultipleChoiceField(choices=())
    days = forms.IntegerField(
        min_value=1, max_value=LONGEST_LIFETIME.days, initial=DEFAULT_LIFETIME.days, required=True
    )

    def __init__(self, asked: Caller, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        grantable = grantable_scopes(roles=asked.roles, held=frozenset(get_args(Scope)))
        choices = [(scope, SCOPE_WORDS[scope]) for scope in get_args(Scope) if scope in grantable]
        self.fields["scopes"] = forms.MultipleChoiceField(choices=choices, initial=["read"])


@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def tokens(request: HttpRequest) -> HttpResponse:
    """Show one's tokens; on POST, create one and show its secret, which is nowhere else."""
    asked = caller(request)
    if request.method != "POST":
        return _page(request, asked, NewTokenForm(asked))
    form = NewTokenForm(asked, request.POST)
    if not form.is_valid():
        return _page(request, asked, form, problem=_said(form))
    now = timezone.now()
    try:
        issued = commands.issue_token(
            user_id=asked.user_id,
            workspace_id=asked.workspace_id,
            name=form.cleaned_data["name"],
            scopes=form.cleaned_data["scopes"],
            expires_at=now + timedelta(days=form.cleaned_data["days"]),
            actor=asked.actor,
            now=now,
        )
    except CartritaError as error:
        return _page(request, asked, form, problem=error.message)
    return _page(request, asked, NewTokenForm(asked), secret=issued.secret)


@login_required
@require_POST
def revoke_token(request: HttpRequest, token_id: UUID) -> HttpResponse:
    """Revoke one of one's tokens; its sockets and streams end."""
    asked = caller(request)
    commands.revoke_token(token_id=token_id, user_id=asked.user_id, actor=asked.actor)
    return redirect("token-page")


def _page(
    request: HttpRequest, asked: Caller, form: NewTokenForm, *, problem: str = "", secret: str = ""
) -> HttpResponse:
    page = queries.tokens_of(asked.user_id, asked.workspace_id, cursor=request.GET.get("cursor"))
    return render(
        request,
        "accounts/tokens.html",
        {
            "form": form,
            "chosen": form["scopes"].value() or [],
            "tokens": page.items,
            "next_cursor": page.next_cursor,
            "now": timezone.now(),
            "problem": problem,
            "secret": secret,
        },
        status=400 if problem else 200,
    )


def _said(form: NewTokenForm) -> str:
    """Return what is wrong, a sentence for each field."""
    return " ".join(f"{name}: {' '.join(map(str, said))}" for name, said in form.errors.items())
