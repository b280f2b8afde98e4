"""General tools that every installation has."""

from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, JsonValue

from cartrita.errors import BadInput
from cartrita.tools import arithmetic, python
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


def _no_package(packages: tuple[str, ...]) -> tuple[str, ...]:
    if packages:
        raise ValueError(
            "no package is available: leave it empty. The snippet can import these modules of the standard "
            f"library: {', '.join(python.MODULES)}"
        )
    return packages


class ExecutePython(Parameters):
    """Parameters of `execute_python`."""

    code: Annotated[
        str,
        Field(
            min_length=1,
            max_length=python.LONGEST_CODE,
            description="The snippet. If its last line is an expression, its value is the return value.",
        ),
    ]
    timeout: Annotated[
        float,
        Field(
            ge=python.SHORTEST_SECONDS,
            le=python.LONGEST_SECONDS,
            description="Seconds that it may run or sleep.",
        ),
    ] = python.DEFAULT_SECONDS
    packages: Annotated[
        tuple[str, ...],
        AfterValidator(_no_package),
        Field(description="Must be empty: no package is available.", json_schema_extra={"maxItems": 0}),
    ] = ()


class ExecutedPython(Parameters):
    """Result of `execute_python`. A snippet that raises has its traceback at the end of `stderr`."""

    stdout: str
    stderr: str
    return_value: Annotated[
        JsonValue, Field(description="The value of the last expression: JSON, or its repr if it is not JSON.")
    ] = None
    execution_time: Annotated[float, Field(ge=0, description="Seconds.")]
    engine: Literal["monty"] = "monty"


class UnknownTimeZone(BadInput):
    """The IANA time zone database has no such zone."""

    code: ClassVar[str] = "unknown_time_zone"


@tool(
    "calculate",
    outside=False,
    description=(
        "Evaluate an arithmetic expression exactly. Knows + - * / // % **, abs, cbrt, ceil, comb, cos, exp, "
        "factorial, floor, gcd, lcm, log, log10, max, mean, median, min, round, sin, sqrt, sum, tan, pi, e."
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
    outside=False,
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


@tool(
    "execute_python",
    outside=False,
    description=(
        "Run a Python snippet and return what it prints and the value of its last expression. It runs "
        "isolated: no files, no network, no environment, no packages. The dialect (Monty) has no class "
        f"inheritance, yield, del or method decorators. Modules: {', '.join(python.MODULES)}. Output above "
        f"{python.OUTPUT_BYTES // 1024} KiB is cut."
    ),
    category="code",
    safety="caution",
    # Room for waiting, for starting, and for the longest snippet.
    timeout_seconds=python.LONGEST_SECONDS + python.WAIT_SECONDS + 15,
    result_limit_bytes=1024 * 1024,
)
async def execute_python(arguments: ExecutePython, call: ToolCall) -> ExecutedPython:  # noqa: ARG001 # the shape of every tool
    """Run a Python snippet. Raises what run_python raises."""
    ran = await python.run_python(arguments.code, timeout_seconds=arguments.timeout)
    return ExecutedPython(
        stdout=ran.stdout,
        stderr=ran.stderr,
        return_value=ran.return_value,
        execution_time=ran.execution_time,
    )
