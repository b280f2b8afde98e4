"""Agents, models, tools and traces."""

from django.urls import path

from cartrita.orchestrator import api

urlpatterns = [
    path("api/v2/agents", api.Agents.as_view(), name="agents"),
    path("api/v2/agents/<str:name>", api.AgentOne.as_view(), name="agent"),
    path("api/v2/models", api.Models.as_view(), name="models"),
    path("api/v2/models/<str:name>", api.ModelOne.as_view(), name="model"),
    path("api/v2/tools", api.Tools.as_view(), name="tools"),
    path("api/v2/tools/<str:name>", api.ToolOne.as_view(), name="tool"),
    path("api/v2/traces/<uuid:any_id>", api.Traces.as_view(), name="trace"),
]
