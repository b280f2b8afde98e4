"""What a caller gets, as the table says it."""

from django.http import HttpResponse


def outcome(answer: HttpResponse) -> str:
    """Return `ok`, a status, `sign-in` or `away`."""
    if answer.status_code in (301, 302):
        where = answer.headers["Location"]
        if where.startswith(("/sign-in", "/admin/login/")):
            return "sign-in"
        return "away" if where == "/admin/" else "ok"
    return "ok" if answer.status_code < 300 else str(answer.status_code)


def body(answer: HttpResponse) -> str:
    """Return everything that an answer says: its body and its headers."""
    if getattr(answer, "is_async", False):
        # A stream that goes on for ever; what it shows is what its channel shows.
        return str(dict(answer.headers))
    parts = b"".join(answer.streaming_content) if answer.streaming else answer.content  # type: ignore[attr-defined]
    return f"{dict(answer.headers)} {parts.decode('utf-8', 'replace')}"
