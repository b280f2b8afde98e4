"""Whether a WebSocket's Origin may use this server: browsers send cookies along to any address."""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http.request import split_domain_port, validate_host
from django.utils.http import is_same_domain

from cartrita.errors import NotAllowed


class NotOurOrigin(NotAllowed):
    """The page that opened the socket does not belong to this server."""

    code = "not_our_origin"


def check_origin(scope: dict[str, Any], *, required: bool) -> None:
    """Raise NotOurOrigin unless the Origin is this server's, or one of CSRF_TRUSTED_ORIGINS.

    The Origin is this server's when its host and port equal the Host header and ALLOWED_HOSTS holds the host.
    Programs, which have a ticket in place of a cookie, need none; one that they send is checked all the same.
    """
    headers = {name.lower(): value.decode("latin-1") for name, value in scope.get("headers", [])}
    origin = headers.get(b"origin")
    if origin is None:
        if required:
            raise NotOurOrigin(
                "A connection by cookie needs an Origin header; a program uses a ticket instead.",
                field="origin",
            )
        return
    if not _is_same_site(origin, headers.get(b"host", "")) and not _is_trusted(origin):
        raise NotOurOrigin(
            "This Origin may not connect; open the page under the server's own address (CARTRITA_URL).",
            field="origin",
        )


def _is_same_site(origin: str, host: str) -> bool:
    try:
        page = urlsplit(origin)
    except ValueError:
        return False
    domain, _ = split_domain_port(host)
    allowed = settings.ALLOWED_HOSTS
    if settings.DEBUG and not allowed:
        allowed = [".localhost", "127.0.0.1", "[::1]"]
    return (
        page.scheme in {"http", "https"}
        and bool(host)
        and _with_port(page.netloc.lower(), page.scheme) == _with_port(host.lower(), page.scheme)
        and validate_host(domain, allowed)
    )


def _with_port(netloc: str, scheme: str) -> str:
    domain, port = split_domain_port(netloc)
    return f"{domain}:{port or ('443' if scheme == 'https' else '80')}"


def _is_trusted(origin: str) -> bool:
    for trusted in settings.CSRF_TRUSTED_ORIGINS:
        scheme, _, domain = trusted.partition("://")
        if origin == trusted:
            return True
        page_scheme, _, page_domain = origin.lower().partition("://")
        if domain.startswith("*") and scheme == page_scheme and is_same_domain(page_domain, domain[1:]):
            return True
    return False
