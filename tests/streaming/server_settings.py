"""The project's settings with no more than the socket needs, so that test servers start quickly."""

from cartrita.settings import *  # noqa: F403

INSTALLED_APPS = ["cartrita.eventstore", "cartrita.streaming"]
EVENT_MODULES = ["tests.streaming.rooms"]
EVENT_SUBSCRIBERS = []
