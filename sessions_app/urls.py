"""Sessions and messages."""

from django.urls import path

from sessions_app import api, events, proofs

urlpatterns = [
    path("api/v2/sessions", api.Sessions.as_view(), name="sessions"),
    path("api/v2/sessions/<uuid:session_id>", api.SessionDetail.as_view(), name="session"),
    path("api/v2/sessions/<uuid:session_id>/messages", api.Messages.as_view(), name="messages"),
    path("api/v2/sessions/<uuid:session_id>/events", events.SessionEvents.as_view(), name="session-events"),
    path("api/v2/sessions/<uuid:session_id>/stream", events.SessionStream.as_view(), name="session-stream"),
    path("api/v2/events", events.WorkspaceEvents.as_view(), name="events"),
    path("api/v2/log/head", proofs.TreeHeadOne.as_view(), name="log-head"),
    path("api/v2/log/inclusion/<int:position>", proofs.Inclusion.as_view(), name="log-inclusion"),
    path("api/v2/log/consistency", proofs.Consistency.as_view(), name="log-consistency"),
    path("api/v2/sessions/<uuid:session_id>/status", api.Status.as_view(), name="session-status"),
    path("api/v2/sessions/<uuid:session_id>/cancel", api.Cancel.as_view(), name="session-cancel"),
]
