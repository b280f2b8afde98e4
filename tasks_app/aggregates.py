"""How the stream of a plan folds."""

from cartrita.eventstore.aggregates import aggregate
from tasks_app import plan as plans

PLAN = aggregate(
    "tasks_app.plan",
    plans.PlanProposed,
    fold=lambda recorded: plans.fold(each.event for each in recorded),
)
