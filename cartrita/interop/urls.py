"""Addresses of the APIs that other programs speak."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
