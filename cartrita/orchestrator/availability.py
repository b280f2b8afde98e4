"""Whether an agent can work here: its tools, and a model that can do what it needs."""

from dataclasses import dataclass
from datetime import datetime

from cartrita.errors import CartritaError
from cartrita.llm import catalog
from cartrita.llm.catalog import ModelEntry
from cartrita.llm.models import Circuit
from cartrita.orchestrator.agents import Agent, in_words, missing_capabilities
from cartrita.orchestrator.skills import all_skills
from cartrita.tools.registry import all_tools


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """`why_not` is empty where the agent can work; `model` is the one that it asks, None for none.

    `only` is empty unless the agent can do a part of its work alone, which its skill does by rules; it says
    what is missing for the rest.
    """

    why_not: str
    model: ModelEntry | None
    only: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitState:
    """Whether a model is called now; an open circuit is tried again at `until`."""

    state: str
    until: datetime | None
    failure: str


CLOSED = CircuitState(state="closed", until=None, failure="")


def availability(who: Agent) -> Availability:
    """Return whether an agent can work with the tools and the models that are configured."""
    absent = sorted(set(who.tools).difference(each.name for each in all_tools()))
    if absent:
        return Availability(why_not=f"there is no tool {' and none '.join(absent)}.", model=None)
    if not who.needs:
        return Availability(why_not="", model=None)
    try:
        model = catalog.choose(name=None, tier=who.tier, purpose="execution")
    except CartritaError as error:
        return _without(who, error.message, None)
    lacking = missing_capabilities(who, model.capabilities)
    if lacking and (others := catalog.fallbacks(model, needs=who.needs)):
        model, lacking = others[0], []
    if not lacking:
        return Availability(why_not="", model=model)
    return _without(
        who,
        f"the model {model.name} cannot {in_words(lacking)}. Set OPENAI_API_KEY, or "
        "CARTRITA_DEFAULT_MODEL to a model that can.",
        model,
    )


def _without(who: Agent, missing: str, model: ModelEntry | None) -> Availability:
    if who.skill in all_skills():
        return Availability(why_not="", model=model, only=missing)
    return Availability(why_not=missing, model=model)


def circuit_states() -> dict[tuple[str, str], CircuitState]:
    """Return the circuits that are known, by provider and model; all others are closed."""
    return {
        (row.provider, row.model): CircuitState(state=row.state, until=row.until, failure=row.failure)
        for row in Circuit.objects.all()
    }
