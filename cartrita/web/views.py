"""The pages: each translates, asks one query or calls one command, and translates back."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from cartrita.accounts.models import User
from cartrita.accounts.queries import Caller, caller_of_user
from cartrita.errors import BadInput, NotFound
from cartrita.eventstore import head, new_id
from cartrita.orchestrator.answering import EXTRACTIVE
from cartrita.web.approvals import Card, card, cards, waits_for
from cartrita.web.break_glass import notices, tell_passed
from cartrita.web.graph import drawing
from cartrita.web.markdown import cited_numbers, to_html
from cartrita.web.passages import marked_pages, visible_part
from cartrita.web.plans import bill, in_chat, items, money, visible, words_of
from cartrita.web.texts import CHAT, PLAN_WORDS
from cartrita.web.themes import THEME_COOKIE, THEMES
from governance.models import Approval
from retrieval import queries as documents
from retrieval.searching import read_as
from sessions_app import commands, queries
from tasks_app import queries as plans

SESSIONS_SHOWN = 50
THEME_COOKIE_SECONDS = 365 * 24 * 3600


@require_GET
@never_cache
@login_required
def chat(request: HttpRequest) -> HttpResponse:
    """Show the sessions, or the way to the first one."""
    return render(request, "web/chat.html", _sidebar(request))


@require_POST
@login_required
def new_chat(request: HttpRequest) -> HttpResponse:
    """Open a session and show it."""
    caller = _caller(request)
    session_id = new_id()
    commands.create_session(
        user_id=caller.user_id,
        workspace_id=caller.workspace_id,
        kind="chat",
        metadata={},
        session_id=session_id,
        actor=caller.actor,
    )
    return redirect("chat-session", session_id=session_id)


@require_GET
@never_cache
@login_required
def chat_session(request: HttpRequest, session_id: UUID) -> HttpResponse:
    """Show a session as it is now; the page then follows it from this position on."""
    caller = _caller(request)
    # Read before the messages: what is recorded in between arrives twice, and the page drops the repetition.
    position = head()
    try:
        session = queries.visible_session(session_id, caller)
    except NotFound as error:
        raise Http404(error.message) from None
    attached = [
        each
        for each in documents.documents_in_scope(workspace_id=caller.workspace_id, session_id=session_id)
        if each.session_id == session_id
    ]
    titles = {each.id: each.title for each in attached}
    messages = [_shown(message, titles) for message in queries.messages(session_id)]
    _tell_plans(session_id, messages)
    tell_passed(session, messages)
    now = timezone.now()
    requests = cards(session_id, _user(request), caller, now=now)
    return render(
        request,
        "web/chat.html",
        {
            **_sidebar(request),
            "session": session,
            "entries": _in_order(messages, requests),
            "break_glass": notices(session, _user(request), caller, now=now),
            "waits_for": waits_for(requests, session_id, now=now),
            "documents": attached[::-1],
            "position": position,
            "own": session["user_id"] == caller.user_id,
            "texts": CHAT,
            "open_plans": _open_plans(session_id, messages, caller),
        },
    )


@require_GET
@never_cache
@login_required
def message(request: HttpRequest, session_id: UUID, message_id: UUID) -> HttpResponse:
    """Return one finished message as the page shows it, for a page that followed its writing."""
    caller = _caller(request)
    try:
        session = queries.visible_session(session_id, caller)
    except NotFound as error:
        raise Http404(error.message) from None
    found = queries.message(session_id, message_id)
    if found is None:
        raise Http404("The session holds no message with this id.")
    shown = _shown(found, {})
    _tell_plans(session_id, [shown])
    tell_passed(session, [shown])
    return render(request, "web/message.html", {"session": session, "message": shown})


@require_GET
@never_cache
@login_required
def approval(request: HttpRequest, session_id: UUID, approval_id: UUID) -> HttpResponse:
    """Return one request for approval as the page shows it, for a page that follows what happens to it."""
    caller = _caller(request)
    try:
        queries.visible_session(session_id, caller)
        if not Approval.objects.filter(id=approval_id, session_id=session_id).exists():
            raise Http404("Nothing with this id was asked in the session.")
        found = card(approval_id, _user(request), caller, now=timezone.now())
    except NotFound as error:
        raise Http404(error.message) from None
    return render(request, "web/approval.html", {"card": found})


@require_GET
@never_cache
@login_required
def break_glass(request: HttpRequest, session_id: UUID) -> HttpResponse:
    """Return what the page says of break-glass now, for a page that follows what happens."""
    caller = _caller(request)
    try:
        session = queries.visible_session(session_id, caller)
    except NotFound as error:
        raise Http404(error.message) from None
    found = notices(session, _user(request), caller, now=timezone.now())
    return render(request, "web/break_glass.html", {"break_glass": found})


@require_GET
@never_cache
@login_required
def document(request: HttpRequest, document_id: UUID) -> HttpResponse:
    """Show a document's text with the passage from `start` to `end` marked, where policy lets it be read."""
    caller = _caller(request)
    session_id = _uuid(request.GET.get("session"))
    if session_id is not None:
        try:
            queries.visible_session(session_id, caller)
        except NotFound as error:
            raise Http404(error.message) from None
    reach: dict[str, Any] = {"workspace_id": caller.workspace_id, "session_id": session_id}
    shown: dict[str, Any] = {"session_id": session_id}
    try:
        shown["document"] = detail = documents.document(document_id, **reach)
        if detail.characters is not None:
            passage = _passage(request, detail.characters)
            part = visible_part(detail.characters, passage, _offset(request, "from"))
            text, page_starts = read_as(
                caller,
                document_id,
                lambda: documents.parsed_pages(document_id, **reach),
                start=part.start,
                end=part.end,
                session_id=session_id,
            )
            pages = marked_pages(text, page_starts, passage, part)
            shown |= {"pages": pages, "passage": passage, "part": part}
            shown["cited_page"] = next((page.number for page in pages if page.holds_passage), None)
    except NotFound as error:
        raise Http404(error.message) from None
    return render(request, "web/document.html", shown)


@require_GET
@never_cache
@login_required
def plan(request: HttpRequest, plan_id: UUID) -> HttpResponse:
    """Show a plan with its tasks as they are now; the page then follows what happens to it."""
    # Read before the plan: what is recorded in between makes the page look once more.
    position = head()
    try:
        view = plans.plan(plan_id, _caller(request))
    except NotFound as error:
        raise Http404(error.message) from None
    shown = {
        "plan": view,
        "position": position,
        "words": PLAN_WORDS[view.status],
        "goal": visible(view.goal),
        "cost": money(view.costs),
        "items": items(view),
        "bill": bill(view),
        "graph": drawing(view.all_tasks(), words_of),
    }
    return render(request, "web/plan.html", shown)


@require_POST
def set_theme(request: HttpRequest) -> HttpResponse:
    """Remember the theme and go back."""
    theme = request.POST.get("theme", "")
    if theme not in THEMES:
        raise BadInput(f"There is no theme {theme!r}; choose one of: {', '.join(THEMES)}.", field="theme")
    back = request.POST.get("next", "")
    if not url_has_allowed_host_and_scheme(back, allowed_hosts={request.get_host()}):
        back = "/"
    response = redirect(back)
    response.set_cookie(
        THEME_COOKIE,
        theme,
        max_age=THEME_COOKIE_SECONDS,
        samesite="Lax",
        httponly=True,
        secure=request.is_secure(),
    )
    return response


def _shown(message: dict[str, Any], titles: Mapping[UUID, str]) -> dict[str, Any]:
    """Add what the page shows of a message: its HTML, its sources by number, its attachments' titles."""
    if message["role"] != "assistant":
        attachments = [{"id": each, "title": titles.get(each, "")} for each in message["attachments"]]
        return {**message, "html": None, "attached": attachments}
    count = len(message["citations"])
    numbers = cited_numbers(message["content"])
    # An extract counts its sources from 1; a model names passages by their own numbers, in the order of the
    # citations.
    extracted = message["model"] == EXTRACTIVE or len(numbers) != count
    by_number = dict(zip(range(1, count + 1) if extracted else numbers, message["citations"], strict=True))
    sources = [
        {**citation, "number": number, "address": _address(citation, message["session_id"])}
        for number, citation in by_number.items()
    ]
    html = to_html(message["content"], {source["number"]: source["address"] for source in sources})
    return {**message, "html": html, "sources": sources}


def _tell_plans(session_id: UUID, messages: Sequence[dict[str, Any]]) -> None:
    """Add to each reply how large its plan was, where that had several tasks."""
    sizes = plans.shapes(session_id, [each["plan_id"] for each in messages if each["plan_id"]])
    for each in messages:
        each["plan"] = sizes.get(each["plan_id"])


def _open_plans(session_id: UUID, messages: Sequence[dict[str, Any]], caller: Caller) -> list[dict[str, Any]]:
    """Return the tasks of the plans of several tasks that work on messages without a reply."""
    answered = {each["parent"] for each in messages if each["role"] == "assistant"}
    asked = [each["message_id"] for each in messages if each["role"] == "user"]
    found = [plans.plan_of_message(session_id, each, caller) for each in asked if each not in answered]
    return [in_chat(view) for view in found if view is not None and view.task_count > 1]


def _address(citation: dict[str, Any], session_id: UUID) -> str:
    place = {"session": session_id, "start": citation["start"], "end": citation["end"]}
    return f"{reverse('document-page', args=[citation['document']])}?{urlencode(place)}#passage"


def _passage(request: HttpRequest, length: int) -> tuple[int, int] | None:
    start, end = _offset(request, "start"), _offset(request, "end")
    return (start, end) if start is not None and end is not None and start < end <= length else None


def _in_order(messages: Sequence[dict[str, Any]], requests: Sequence[Card]) -> list[dict[str, Any]]:
    """Return what was said and what was asked for in the order of its times."""
    entries: list[tuple[datetime, dict[str, Any]]]
    entries = [(each["created_at"], {"message": each}) for each in messages]
    entries += [(each.requested_at, {"card": each}) for each in requests]
    return [entry for _, entry in sorted(entries, key=itemgetter(0))]


def _caller(request: HttpRequest) -> Caller:
    return caller_of_user(_user(request))


def _user(request: HttpRequest) -> User:
    if not request.user.is_authenticated:
        raise AssertionError("a view behind login_required has a signed-in user")
    return request.user


def _sidebar(request: HttpRequest) -> dict[str, Any]:
    caller = _caller(request)
    return {"sessions": queries.sessions_of(caller.user_id, caller.workspace_id, limit=SESSIONS_SHOWN).items}


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        raise Http404("That is no session id.") from None


def _offset(request: HttpRequest, name: str) -> int | None:
    text = request.GET.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None
