"""What can be named as a model: the router, the agents, the tiers, and the models of the catalog."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal

from cartrita.errors import BadInput, NotFound
from cartrita.llm import catalog
from cartrita.orchestrator.agents import all_agents
from cartrita.orchestrator.availability import availability
from cartrita.orchestrator.relay import RELAY_AGENT

ROUTER = "cartrita"
OWNER = "cartrita"

Kind = Literal["router", "agent", "tier", "model"]


class ModelNotFound(NotFound):
    """Nothing that can be called has that name."""

    code: ClassVar[str] = "model_not_found"


class OtherWork(BadInput):
    """What is named does not do what it is asked for here."""

    code: ClassVar[str] = "model_not_supported"


@dataclass(frozen=True, slots=True)
class Offer:
    """Something that answers under a name.

    `since` is when a model's price began, None for what is no model. `answers_with` is the catalog's model
    behind a tier. `chats` and `embeds` tell what it does.
    """

    name: str
    kind: Kind
    owner: str
    purpose: str = ""
    since: datetime | None = None
    answers_with: str = ""
    chats: bool = True
    embeds: bool = False

    @property
    def relays(self) -> bool:
        """Tell whether the caller's messages go to a model as they are."""
        return self.kind in ("tier", "model")

    def as_json(self) -> dict[str, Any]:
        """Return the model object; `created` is 0 where there is no such time."""
        told = {
            "kind": self.kind,
            "purpose": self.purpose,
            "answers_with": self.answers_with,
            "routes": [
                address
                for does, address in ((self.chats, "/v1/chat/completions"), (self.embeds, "/v1/embeddings"))
                if does
            ],
        }
        return {
            "id": self.name,
            "object": "model",
            "created": int(self.since.timestamp()) if self.since else 0,
            "owned_by": self.owner,
            "cartrita": {name: value for name, value in told.items() if value},
        }


def offers() -> list[Offer]:
    """Return everything that can be called now, the router first; reads the database.

    An agent that cannot work here, such as the writer without a model that writes, is not among them.
    """
    found = [Offer(ROUTER, "router", OWNER, "Plans, and lets the agents work that fit.")]
    found += [
        Offer(each.name, "agent", OWNER, each.purpose)
        for each in all_agents()
        if each.name != RELAY_AGENT and not availability(each).why_not
    ]
    entries = catalog.available()
    for tier in catalog.TIERS:
        within = [each for each in entries if each.tier == tier and each.provider != catalog.SCRIPTED]
        within.sort(key=lambda each: each.quality_rank)
        chat = next((each for each in within if not each.can("embeddings")), None)
        if within:
            best = chat or within[0]
            embeds = any(each.can("embeddings") for each in within)
            found.append(
                Offer(
                    tier,
                    "tier",
                    OWNER,
                    since=best.price.valid_from,
                    answers_with=best.name,
                    chats=chat is not None,
                    embeds=embeds,
                )
            )
    for each in entries:
        embeds = each.can("embeddings")
        since = each.price.valid_from
        found.append(Offer(each.name, "model", each.provider, since=since, chats=not embeds, embeds=embeds))
    # A name stands once: agents come before tiers, and those before models.
    named: dict[str, Offer] = {}
    for one in found:
        named.setdefault(one.name, one)
    return list(named.values())


def chatting(name: str) -> Offer:
    """Return what chats under a name. Raises ModelNotFound, ModelNotConfigured, OtherWork."""
    found = offer(name)
    if not found.chats:
        raise OtherWork(f"{name} makes embeddings and nothing else: POST /v1/embeddings.", field="model")
    return found


def embedding(name: str) -> Offer:
    """Return what makes embeddings under a name. Raises ModelNotFound, ModelNotConfigured, OtherWork."""
    found = offer(name)
    if not found.embeds:
        others = ", ".join(each.name for each in offers() if each.embeds)
        raise OtherWork(f"{name} makes no embeddings; those who do are: {others or 'none'}.", field="model")
    return found


def offer(name: str) -> Offer:
    """Return what is offered under a name. Raises ModelNotFound, ModelNotConfigured; reads the database."""
    for each in offers():
        if each.name == name:
            return each
    # Known and not set up is worth telling apart from unknown.
    for who in all_agents():
        if who.name == name and (why_not := availability(who).why_not):
            raise catalog.ModelNotConfigured(f"The agent {name} cannot work here: {why_not}", field="model")
    if name in catalog.TIERS or any(each.name == name for each in catalog.models()):
        is_tier = name in catalog.TIERS
        catalog.choose(name=None if is_tier else name, tier=name if is_tier else None, purpose="execution")
    raise ModelNotFound(
        f"There is no model {name[:100]!r} for you here; GET /v1/models lists what there is.", field="model"
    )
