"""Where `celery -A cartrita worker` and `celery -A cartrita beat` look for the application."""

from cartrita.upkeep.application import app

__all__ = ["app"]
