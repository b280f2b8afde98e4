"""All addresses: each app names its own."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

APPS_WITH_ADDRESSES = (
    "cartrita.http",
    "cartrita.accounts",
    "governance",
    "sessions_app",
    "tasks_app",
    "retrieval",
    "cartrita.orchestrator",
    "cartrita.web",
    "cartrita.interop",
)

urlpatterns: list[URLPattern | URLResolver] = [
    *(path("", include(f"{app}.urls")) for app in APPS_WITH_ADDRESSES),
    path("admin/", admin.site.urls),
]
