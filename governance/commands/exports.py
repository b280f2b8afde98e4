"""Recording that data left by a file."""

from collections import Counter
from collections.abc import Iterable
from uuid import UUID

from cartrita.eventstore import Append, Context, append, new_id
from governance.exports import DataExported


def record_export(*, actor: str, what: str, workspaces: Iterable[UUID]) -> None:
    """Record that somebody exports rows; `workspaces` has the workspace of each row.

    Call it before the file is handed over. Each workspace's log says how many of its rows left.
    """
    counts = Counter(workspaces)
    append(
        *(
            Append(
                new_id(),
                0,
                [DataExported(what=what, by=actor, rows=rows)],
                Context(workspace_id=workspace_id, actor=actor),
            )
            for workspace_id, rows in sorted(counts.items())
        )
    )
