"""The fact that somebody took data along: rows of the console or of REST, as a file."""

from typing import ClassVar

from pydantic import Field

from cartrita.eventstore.types import Event


class DataExported(Event):
    """Somebody took rows of a workspace along: `what` names them, such as `budgets`. A stream of its own."""

    type_name: ClassVar[str] = "governance.DataExported"

    what: str
    by: str
    rows: int = Field(ge=0)
