"""Addresses of the APIs that other programs speak."""

from django.urls import path, re_path

from cartrita.interop.openai_api import views

_WITHOUT_VERSION = ("models", "chat/completions", "responses", "embeddings")

urlpatterns = [
    path("v1/models", views.models, name="openai-models"),
    path("v1/models/<path:name>", views.model, name="openai-model"),
    path("v1/chat/completions", views.chat_completions, name="openai-chat-completions"),
    path("v1/responses", views.response, name="openai-responses"),
    path("v1/embeddings", views.embeddings, name="openai-embeddings"),
    re_path(r"^v1/", views.unknown),
    # Clients that were given the address of the server as their base URL ask here.
    *(path(address, views.base_without_version) for address in _WITHOUT_VERSION),
]
