from django.urls import path
from django.views.generic import RedirectView

from cartrita.web import views

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="chat"), name="home"),
    path("chat/", views.chat, name="chat"),
    path("chat/new/", views.new_chat, name="new-chat"),
    path("chat/<uuid:session_id>/", views.chat_session, name="chat-session"),
    path("chat/<uuid:session_id>/messages/<uuid:message_id>/", views.message, name="chat-message"),
    path("chat/<uuid:session_id>/approvals/<uuid:approval_id>/", views.approval, name="chat-approval"),
    path("chat/<uuid:session_id>/break-glass/", views.break_glass, name="chat-break-glass"),
    path("documents/<uuid:document_id>/", views.document, name="document-page"),
    path("plans/<uuid:plan_id>/", views.plan, name="plan-page"),
    path("theme/", views.set_theme, name="theme"),
]
