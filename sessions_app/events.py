"""REST: what happened, as feeds to page through and as a stream to follow."""

import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts.authentication import caller
from cartrita.accounts.consumers import OPENED_BY_TICKET, SocketUser
from cartrita.accounts.queries import Caller
from cartrita.errors import BadInput
from cartrita.eventstore import RecordedEvent, Unreadable, all_event_classes
from cartrita.eventstore.log import read_log
from cartrita.http.pagination import LARGEST_LIMIT, page_parameters
from cartrita.http.views import ApiView
from cartrita.streaming import sse
from sessions_app import queries
from sessions_app.channel import describe

# How much of the log one page looks through where few events are of the types that are asked for.
_BATCH = 500
_BATCHES = 20
_LARGEST_POSITION = 2**53 - 1
_POSITION = {"type": "integer", "minimum": 0, "maximum": _LARGEST_POSITION}
# A position, and since when positions count so.
_EVENT_ID = r"^[0-9]{1,16}(@[0-9a-f-]{1,40})?$"
_FEED_PARAMETERS = [
    OpenApiParameter("after", _POSITION, description="Only events after this position; all without it."),
    OpenApiParameter("until", _POSITION, description="Only events up to this position: what was so then."),
    OpenApiParameter(
        "type", OpenApiTypes.STR, description="Only these event types, separated by commas (docs/events.md)."
    ),
    OpenApiParameter("cursor", OpenApiTypes.STR, description="`next_cursor` of the page before."),
    OpenApiParameter("limit", {"type": "integer", "minimum": 1, "maximum": LARGEST_LIMIT, "default": 50}),
]

Show = Callable[[RecordedEvent], dict[str, Any] | None]


class EventEntry(serializers.Serializer[Any]):
    """An event: where it stands in the log and in its stream, who caused it, and what is shown of it.

    `unreadable` says why this version cannot read it, where that is so; `data` is empty then.
    """

    position = serializers.IntegerField()
    event_id = serializers.UUIDField()
    type = serializers.CharField()
    recorded_at = serializers.DateTimeField()
    stream_id = serializers.UUIDField()
    version = serializers.IntegerField()
    session_id = serializers.UUIDField(allow_null=True)
    actor = serializers.CharField()
    causation_id = serializers.UUIDField(allow_null=True)
    trace_id = serializers.CharField(allow_blank=True)
    data = serializers.DictField()  # type: ignore[assignment] # DRF takes fields out of the class
    unreadable = serializers.CharField(allow_null=True)


class EventPage(serializers.Serializer[Any]):
    """Events in the order of the log. A page may hold fewer than `limit` and yet have a next one."""

    items = EventEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class EventStreamRenderer(JSONRenderer):
    """Lets clients ask for a stream; what refuses one is JSON all the same."""

    media_type = sse.CONTENT_TYPE
    format = "sse"


class SessionEvents(ApiView):
    """What happened in a session."""

    @extend_schema(operation_id="session_events_list", parameters=_FEED_PARAMETERS, responses=EventPage)
    def get(self, request: Request, session_id: UUID) -> Response:
        """List a session's events in order, each as its socket shows it."""
        queries.visible_session(session_id, caller(request))
        return _page(request, describe, session_id=session_id)


class WorkspaceEvents(ApiView):
    """What happened in the workspace; for its administrators and auditors."""

    roles = queries.READERS

    @extend_schema(operation_id="events_list", parameters=_FEED_PARAMETERS, responses=EventPage)
    def get(self, request: Request) -> Response:
        """List the workspace's events in order, each without the text that people wrote."""
        return _page(request, _in_clear, workspace_id=caller(request).workspace_id)


class SessionStream(ApiView):
    """A session's events as they happen."""

    renderer_classes = (JSONRenderer, EventStreamRenderer)

    @extend_schema(
        operation_id="session_stream",
        parameters=[
            OpenApiParameter("after", _POSITION, description="As Last-Event-ID, which goes before it."),
            OpenApiParameter(
                "Last-Event-ID",
                {"type": "string", "pattern": _EVENT_ID},
                OpenApiParameter.HEADER,
                description="The `id` of the last event that arrived; every later one follows.",
            ),
        ],
        responses={(200, sse.CONTENT_TYPE): OpenApiTypes.STR},
    )
    def get(self, request: Request, session_id: UUID) -> HttpResponseBase:
        """Follow a session by server-sent events: what happens, and the text of answers as it is written.

        Without a position, after a restore, and where more than 500 events came since, a snapshot goes first.
        """
        asked = _reader(request, session_id)
        after, epoch = _last_event(request)
        frames = sse.event_stream(
            user=SocketUser(asked.user_id, asked),
            scope={"cookies": dict(request.COOKIES), OPENED_BY_TICKET: asked.token_id is not None},
            channel=f"session:{session_id}",
            after=after,
            epoch=epoch,
        )
        # nginx would hold the frames back.
        return StreamingHttpResponse(
            frames, content_type=sse.CONTENT_TYPE, headers={"X-Accel-Buffering": "no"}
        )

    def head(self, request: Request, session_id: UUID) -> HttpResponse:
        """Answer as `get` begins to, without a stream that nobody reads."""
        _reader(request, session_id)
        _last_event(request)
        return HttpResponse(content_type=sse.CONTENT_TYPE)


def _reader(request: Request, session_id: UUID) -> Caller:
    """Return who asks, where they may follow the session. Raises SessionNotFound and its like."""
    asked = caller(request)
    if asked.token_id is None:
        queries.require_visible(session_id, asked)
    else:
        queries.require_open(session_id, asked, now=timezone.now())
    return asked


def _page(request: Request, show: Show, **part: UUID) -> Response:
    """Return the events of a part of the log that are shown, from where the request says."""
    cursor, limit = page_parameters(request)
    after = _position("after", request.query_params.get("after", "0"))
    if cursor:
        after = max(after, _position("cursor", cursor))
    until = _position("until", request.query_params.get("until", str(_LARGEST_POSITION)))
    wanted = _types(request)
    found: list[dict[str, Any]] = []
    for _ in range(_BATCHES):
        batch = read_log(after=after, limit=_BATCH, **part)
        for recorded in batch:
            after = recorded.position or after
            if after > until:
                return _answer(found, None)
            shown = show(recorded) if not wanted or recorded.type_name in wanted else None
            if shown is not None:
                found.append(_entry(recorded, shown))
            if len(found) == limit:
                more = recorded is not batch[-1] or len(batch) == _BATCH
                return _answer(found, after if more else None)
        if len(batch) < _BATCH:
            return _answer(found, None)
    return _answer(found, after)


def _answer(found: list[dict[str, Any]], after: int | None) -> Response:
    return Response({"items": found, "next_cursor": None if after is None else str(after)})


def _entry(recorded: RecordedEvent, shown: dict[str, Any]) -> dict[str, Any]:
    return {
        "position": recorded.position,
        "event_id": recorded.event_id,
        "type": recorded.type_name,
        "recorded_at": recorded.recorded_at,
        "stream_id": recorded.stream_id,
        "version": recorded.version,
        "session_id": recorded.session_id,
        "actor": recorded.actor,
        "causation_id": recorded.causation_id,
        "trace_id": recorded.trace_id,
        "data": shown,
        "unreadable": recorded.event.message if isinstance(recorded.event, Unreadable) else None,
    }


def _in_clear(recorded: RecordedEvent) -> dict[str, Any]:
    """Return what of an event was stored in clear: nothing that people wrote, and no hash of a secret."""
    if isinstance(recorded.event, Unreadable):
        return {}
    hidden = {*recorded.sealed, "secret_sha256"}
    return recorded.event.model_dump(mode="json", exclude=hidden)


def _types(request: Request) -> frozenset[str]:
    wanted = frozenset(name for name in request.query_params.get("type", "").split(",") if name)
    known = {event_class.type_name for event_class in all_event_classes()}
    if unknown := sorted(wanted - known):
        raise BadInput(
            f"There is no event type {unknown[0][:100]!r}; docs/events.md lists them.", field="type"
        )
    return wanted


def _last_event(request: Request) -> tuple[int | None, str]:
    """Return the position after which to go on, and the epoch in which it counts ("": not said)."""
    header = request.headers.get("Last-Event-ID", "").strip()
    if header:
        position, _, epoch = header.partition("@")
        if re.fullmatch(_EVENT_ID, header) is None:
            raise BadInput("Last-Event-ID is the id of an event of this stream.", field="Last-Event-ID")
        return _position("Last-Event-ID", position), epoch
    text = request.query_params.get("after")
    return (None if text is None else _position("after", text)), ""


def _position(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 17 and int(text) <= _LARGEST_POSITION):
        raise BadInput(f"{name} is a position of the log: a whole number from 0 on.", field=name)
    return int(text)
