"""Sessions and messages."""

from django.urls import path

from sessions_app import api

urlpatterns = [
    path("api/v2/sessions", api.Sessions.as_view(), name="sessions"),
    path("api/v2/sessions/<uuid:session_id>", api.SessionDetail.as_view(), name="session"),
    path("api/v2/sessions/<uuid:session_id>/messages", api.Messages.as_view(), name="messages"),
    path("api/v2/sessions/<uuid:session_id>/status", api.Status.as_view(), name="session-status"),
    path("api/v2/sessions/<uuid:session_id>/cancel", api.Cancel.as_view(), name="session-cancel"),
]
