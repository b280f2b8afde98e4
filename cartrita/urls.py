"""All addresses: each app names its own."""

from importlib.util import find_spec

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

APPS_WITH_ADDRESSES = (
    "cartrita.http",
    "cartrita.accounts",
    "sessions_app",
    "tasks_app",
    "governance",
    "retrieval",
    "cartrita.llm",
    "cartrita.tools",
    "cartrita.web",
)

urlpatterns: list[URLPattern | URLResolver] = [
    *(path("", include(f"{app}.urls")) for app in APPS_WITH_ADDRESSES if find_spec(f"{app}.urls")),
    path("admin/", admin.site.urls),
]
