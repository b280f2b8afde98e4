"""Every address with the methods that it takes, and the channels and commands of sockets."""

import re
from collections.abc import Iterator

from django.urls import URLPattern, URLResolver, get_resolver
from django.views.generic import RedirectView

from cartrita.streaming.registry import registrations

METHODS = ("get", "post", "put", "patch", "delete")


def routes() -> list[str]:
    """Return each as `METHOD /path`, `channel <kind>` or `command <name>`, in the order of the addresses."""
    found = dict.fromkeys(_http(get_resolver().url_patterns, "/"))
    registered = registrations()
    return [
        *found,
        *(f"channel {kind}" for kind in sorted(registered.kinds)),
        *(f"command {name}" for name in sorted(registered.commands)),
    ]


def _http(patterns: list[URLPattern | URLResolver], before: str) -> Iterator[str]:
    for each in patterns:
        path = before + _plain(str(each.pattern))
        if isinstance(each, URLResolver):
            yield from _http(each.url_patterns, path)
        else:
            for method in _methods(each):
                yield f"{method.upper()} {path}"


def _plain(pattern: str) -> str:
    """Return a pattern as a path; a group of a regular expression becomes `<name>`."""
    if not pattern.startswith(("^", "(")):
        return pattern
    return re.sub(r"\(\?P<(\w+)>[^)]*\)", r"<\1>", pattern).strip("^$")


def _methods(pattern: URLPattern) -> tuple[str, ...]:
    view = getattr(pattern.callback, "view_class", None) or getattr(pattern.callback, "cls", None)
    if view is None:
        if getattr(pattern.callback, "__name__", "") == "history_view":
            return ("get",)
        # What a function takes is not to be seen from outside; what it refuses stands in the table too.
        return ("get", "post")
    if issubclass(view, RedirectView):
        return ("get",)
    return tuple(method for method in METHODS if hasattr(view, method))
