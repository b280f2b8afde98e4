"""Plans and runs."""

from django.urls import path

from tasks_app import api

urlpatterns = [
    path("api/v2/plans/<uuid:plan_id>", api.PlanOne.as_view(), name="plan"),
    path("api/v2/plans/<uuid:plan_id>/edges", api.PlanEdges.as_view(), name="plan-edges"),
    path("api/v2/plans/<uuid:plan_id>/snapshots", api.PlanSnapshots.as_view(), name="plan-snapshots"),
    path(
        "api/v2/plans/<uuid:plan_id>/snapshots/<int:version>",
        api.PlanSnapshot.as_view(),
        name="plan-snapshot",
    ),
    path("api/v2/plans/<uuid:plan_id>/runs", api.PlanRuns.as_view(), name="plan-runs"),
    path("api/v2/sessions/<uuid:session_id>/plans", api.SessionPlans.as_view(), name="session-plans"),
    path("api/v2/runs/<uuid:run_id>", api.RunOne.as_view(), name="run"),
]
