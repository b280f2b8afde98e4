"""How the stream of a run folds: its own events, and those of the doors that its acts went through."""

from cartrita.eventstore.aggregates import aggregate
from cartrita.orchestrator import loop
from tasks_app.run import RunStarted

RUN = aggregate(
    "orchestrator.run",
    RunStarted,
    fold=lambda recorded: loop.fold(each.event for each in recorded),
)
