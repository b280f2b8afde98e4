"""The project's settings, with the tools of tests beside those of the product."""

from cartrita.settings import *  # noqa: F403
from cartrita.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.chaos.letters"]
