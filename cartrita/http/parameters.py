"""Query parameters that several lists take."""

import re
from uuid import UUID

from rest_framework.request import Request

from cartrita.errors import BadInput

_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def uuid_parameter(request: Request, name: str) -> UUID | None:
    """Return a query parameter that is an id (RFC 9562, with hyphens), None without it. Raises BadInput."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if _ID.fullmatch(text) is None:
        raise BadInput(f"{name} is no UUID; leave it out, or send one with its hyphens.", field=name)
    return UUID(text)
