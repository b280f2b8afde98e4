"""General tools that every installation has."""

from datetime import UTC, datetime
from typing import Annotated, ClassVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field

from cartrita.errors import BadInput
from cartrita.tools import arithmetic
from cartrita.tools.registry import Parameters, ToolCall, tool


class Calculate(Parameters):
    """Parameters of `calculate`."""

    expression: Annotated[
        str,
        Field(
            min_length=1,
            max_length=arithmetic.LONGEST_EXPRESSION,
            description="Arithmetic with + - * / // % ** and parentheses, such as (1200 - 3) / 7.",
        ),
    ]


class Calculated(Parameters):
    """Result of `calculate`: the value as decimal text, so that no digit is lost."""

    expression: str
    value: str


class CurrentTime(Parameters):
    """Parameters of `current_time`."""

    timezone: Annotated[
        str, Field(max_length=64, description="A name of the IANA time zone database, such as Europe/Berlin.")
    ] = "UTC"


class Now(Parameters):
    """Result of `current_time`."""

    time: Annotated[datetime, Field(description="RFC 3339, with the zone's offset.")]
    timezone: str
    weekday: str


class UnknownTimeZone(BadInput):
    """The IANA time zone database has no such zone."""

    code: ClassVar[str] = "unknown_time_zone"


@tool(
    "calculate",
    description=(
        "Evaluate an arithmetic expression exactly. Knows + - * / // % **, abs, ceil, cos, exp, factorial, "
        "floor, log, log10, max, min, round, sin, sqrt, tan, pi and e."
    ),
    category="general",
    timeout_seconds=5,
    result_limit_bytes=8 * 1024,
)
async def calculate(arguments: Calculate, call: ToolCall) -> Calculated:  # noqa: ARG001 # the shape of every tool
    """Evaluate an arithmetic expression exactly. Raises NotCalculable."""
    value = arithmetic.calculate(arguments.expression)
    return Calculated(expression=arguments.expression, value=arithmetic.written(value))


@tool(
    "current_time",
    description="Tell the current date and time in a time zone.",
    category="general",
    timeout_seconds=5,
    result_limit_bytes=1024,
)
async def current_time(arguments: CurrentTime, call: ToolCall) -> Now:  # noqa: ARG001 # the shape of every tool
    """Tell the time in a zone. Raises UnknownTimeZone."""
    try:
        zone = ZoneInfo(arguments.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UnknownTimeZone(
            f"{arguments.timezone!r} is not a time zone; use a name such as UTC or Europe/Berlin.",
            field="timezone",
        ) from None
    now = datetime.now(UTC).astimezone(zone)
    return Now(time=now, timezone=arguments.timezone, weekday=now.strftime("%A"))
