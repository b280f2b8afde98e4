"""JSON bodies, refused with a clear answer where they cannot be kept exactly."""

import json
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from rest_framework.parsers import BaseParser

from cartrita.errors import BadInput, TooLarge
from cartrita.eventstore import canonical_json

BODY_LIMIT = 512 * 1024


class MalformedJson(BadInput):
    """The body is no JSON text (RFC 8259) in UTF-8."""

    code = "malformed_json"


class BodyTooLarge(TooLarge):
    """The body is above the limit of its route."""

    code = "body_too_large"


class StrictJSONParser(BaseParser):
    """Read a JSON body of at most 512 KiB (or the view's `body_limit`, in bytes).

    Raises MalformedJson, BodyTooLarge, and BadInput naming the place of a NUL character, half a surrogate
    pair, a number that JSON cannot carry exactly, or nesting above 100 levels.
    """

    media_type = "application/json"

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the JSON value of the body."""
        del media_type
        limit = getattr((parser_context or {}).get("view"), "body_limit", BODY_LIMIT)
        body = stream.read(limit + 1)
        if len(body) > limit:
            raise BodyTooLarge(
                f"The body is above {limit:,} bytes; send large content as a document.",
                field="body",
                limit=limit,
            )
        return parse_json(body)


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON text; raises as StrictJSONParser does, without a limit of size."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise MalformedJson(
            f"The body is not UTF-8: byte {error.start} fits nowhere; send JSON in UTF-8.", field="body"
        ) from None
    except json.JSONDecodeError as error:
        raise MalformedJson(
            f"The body is no JSON: {error.msg} at line {error.lineno}, column {error.colno}.", field="body"
        ) from None
    except RecursionError:
        raise BadInput("The body is nested too deep; flatten it.", field="body") from None
    except ValueError:
        # Python refuses integers of more than 4,300 digits.
        raise BadInput(
            "The body holds a number with too many digits; send it as text.", field="body"
        ) from None
    canonical_json(value)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedJson(f"JSON knows no {name}; leave the value out or send null.", field="body")
