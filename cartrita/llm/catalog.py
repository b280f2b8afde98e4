"""The models that can be called, what they can do and what they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from typing import Any, Literal, LiteralString

import orjson
from django.conf import settings
from django.utils import timezone

from cartrita.errors import BadInput, NotFound, Unavailable
from cartrita.eventstore.store import execute
from cartrita.llm.local_server import MODEL_PACKAGE

Tier = Literal["premium", "standard", "fallback", "local"]
Purpose = Literal["execution", "planning", "creative"]

TIERS: tuple[str, ...] = ("premium", "standard", "fallback", "local")
MILLION = 1_000_000

SCRIPTED = "scripted"

# All that the tables hold, unless it is what the caller knows by its hash: whichever process changed them,
# and whether its change stands or was undone.
_READ: LiteralString = """
    select hash, held from (
        select coalesce(jsonb_agg(to_jsonb(model) || jsonb_build_object('prices', (
            select coalesce(jsonb_agg(to_jsonb(price) order by price.valid_from), '[]')
            from llm_price as price where price.model_id = model.id
        )) order by model.quality_rank, model.name), '[]')::text as held from llm_model as model
    ) as catalog, sha256(convert_to(held, 'utf8')) as hash where hash <> %b::bytea
"""


class UnknownModel(NotFound):
    """No model of that name or tier is in the catalog."""

    code = "unknown_model"


class ModelNotConfigured(Unavailable):
    """The model is in the catalog, and what it needs to be called (a key, an endpoint) is not set."""

    code = "model_not_configured"


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Micro-units of `currency` per million tokens, valid from `valid_from` on."""

    valid_from: datetime
    currency: str
    input_price: int
    cached_price: int
    output_price: int

    def cost(self, *, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> int:
        """Return the cost in micro-units, rounded up so that a budget is never overdrawn by rounding.

        `cached_tokens` are those of the prompt that the provider had cached, at most `prompt_tokens`.
        """
        exact = (
            (prompt_tokens - cached_tokens) * self.input_price
            + cached_tokens * self.cached_price
            + completion_tokens * self.output_price
        )
        return -(-exact // MILLION)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model with the price of now.

    Limits are in tokens; `context_limit` holds prompt and answer together. `tokenizer` names a vocabulary
    (o200k_base, cl100k_base), `server` (the endpoint counts) or `words` (scripted only). A lower
    `quality_rank` is better. Capabilities: answers, planning, tools, json_schema, json_object, vision;
    one with embeddings makes those and nothing else, and its `context_limit` is that of one text.
    """

    name: str
    provider: str
    base_url: str
    tier: str
    quality_rank: int
    context_limit: int
    output_limit: int
    tokenizer: str
    capabilities: frozenset[str]
    price: ModelPrice

    def can(self, capability: str) -> bool:
        return capability in self.capabilities


def models(*, at: datetime | None = None) -> list[ModelEntry]:
    """Return every model that has a price at `at` (default: now), best first. Reads the database."""
    when = at or timezone.now()
    entries = [entry for row in _rows() if (entry := _entry(row, when)) is not None]
    if settings.SCRIPTED_MODEL:
        entries.append(_scripted_entry())
    return entries


def available(*, at: datetime | None = None) -> list[ModelEntry]:
    """Return the models of `models` that can be called as this installation is set up."""
    return [entry for entry in models(at=at) if _can_be_called(entry)]


def model(name: str, *, at: datetime | None = None) -> ModelEntry:
    """Return the model called `name`.

    Raises UnknownModel, which names those that exist.
    """
    known = models(at=at)
    for entry in known:
        if entry.name == name:
            return entry
    raise _unknown(name, [entry for entry in known if not entry.can("embeddings")])


def embedding_model(name: str, *, at: datetime | None = None) -> ModelEntry:
    """Return the model that makes embeddings by its name, or the one of a tier by the tier's.

    Raises UnknownModel, which names those there are, and ModelNotConfigured.
    """
    known = [entry for entry in models(at=at) if entry.can("embeddings")]
    for entry in known:
        if name in {entry.name, entry.tier}:
            return _callable(entry)
    raise _unknown(name, known)


def choose(*, name: str | None, tier: str | None, purpose: Purpose, at: datetime | None = None) -> ModelEntry:
    """Return the model for a request: by name, else the best of a tier, else the default for the purpose.

    A tier's name in place of a model's means the best of the tier.
    The default is CARTRITA_DEFAULT_MODEL; else, with OPENAI_API_KEY, gpt-4o's tier for planning and the
    standard tier otherwise; else the local model. Raises UnknownModel, BadInput for an unknown tier,
    ModelNotConfigured when the choice cannot be called.
    """
    if name in TIERS:
        name, tier = None, name
    if name:
        return _callable(model(name, at=at))
    if tier:
        if tier not in TIERS:
            raise BadInput(f"There is no tier {tier!r}; choose one of: {', '.join(TIERS)}.", field="tier")
        return _callable(_best_of(tier, models(at=at)))
    if settings.DEFAULT_MODEL:
        return _callable(model(settings.DEFAULT_MODEL, at=at))
    if settings.SCRIPTED_MODEL:
        return _scripted_entry()
    if settings.OPENAI_API_KEY:
        return _best_of("premium" if purpose == "planning" else "standard", models(at=at))
    return _best_of("local", models(at=at))


def cheaper(entry: ModelEntry, *, at: datetime | None = None) -> ModelEntry | None:
    """Return the best model of the next lower tier that can be called and does not cost more; else None."""
    below = TIERS[TIERS.index(entry.tier) + 1 :]
    lower = [each for each in models(at=at) if each.tier in below and not each.can("embeddings")]
    return next(
        (
            other
            for other in sorted(lower, key=lambda each: (below.index(each.tier), each.quality_rank))
            if other.provider != SCRIPTED
            and _costs_no_more(other.price, entry.price)
            and _can_be_called(other)
        ),
        None,
    )


def fallbacks(
    entry: ModelEntry, *, needs: frozenset[str] = frozenset(), at: datetime | None = None
) -> tuple[ModelEntry, ...]:
    """Return the models that may take the place of one that failed, the next one first.

    These are the worse ones of its tier and those of the lower tiers which can be called and have the
    capabilities of `needs`; each is a call of its own, to be decided before it is made.
    """
    return _chain(entry, needs, [each for each in models(at=at) if _can_be_called(each)])


def is_configured(entry: ModelEntry) -> bool:
    """Tell whether what a model needs to be called (a key, its package) is there."""
    return _can_be_called(entry)


def _chain(entry: ModelEntry, needs: frozenset[str], others: Sequence[ModelEntry]) -> tuple[ModelEntry, ...]:
    after = [
        each
        for each in others
        if _place(each) > _place(entry)
        and needs <= each.capabilities
        and each.provider != SCRIPTED
        and not each.can("embeddings")
    ]
    return tuple(sorted(after, key=_place))


def _place(entry: ModelEntry) -> tuple[int, int, str]:
    return TIERS.index(entry.tier), entry.quality_rank, entry.name


def _costs_no_more(price: ModelPrice, than: ModelPrice) -> bool:
    return (
        price.input_price <= than.input_price
        and price.output_price <= than.output_price
        and (price.currency == than.currency or not (price.input_price or price.output_price))
    )


def _unknown(name: str, known: Sequence[ModelEntry]) -> UnknownModel:
    names = ", ".join(sorted(entry.name for entry in known))
    return UnknownModel(f"There is no model {name!r}; choose one of: {names}.", field="model")


def _can_be_called(entry: ModelEntry) -> bool:
    if entry.provider == "openai":
        return bool(settings.OPENAI_API_KEY)
    return entry.provider != "local" or find_spec(MODEL_PACKAGE) is not None


def _best_of(tier: str, entries: Sequence[ModelEntry]) -> ModelEntry:
    for entry in sorted(entries, key=lambda each: each.quality_rank):
        if entry.tier == tier and entry.provider != SCRIPTED and not entry.can("embeddings"):
            return entry
    raise UnknownModel(f"The catalog holds no model of tier {tier!r}.", field="tier")


def _callable(entry: ModelEntry) -> ModelEntry:
    if entry.provider == "openai" and not settings.OPENAI_API_KEY:
        raise ModelNotConfigured(
            f"Model {entry.name!r} needs OPENAI_API_KEY in the environment of the server. "
            "Set it and start again, or choose the local model.",
            field="model",
        )
    return entry


@dataclass(frozen=True, slots=True)
class _Row:
    """A model with its prices, the oldest first."""

    entry: Mapping[str, Any]
    prices: tuple[ModelPrice, ...]


# The rows as they were read last, with their hash.
_known: tuple[bytes, tuple[_Row, ...]] = (b"", ())


def _rows() -> tuple[_Row, ...]:
    """Return the rows as they are now; they are read again only where they have changed."""
    global _known  # noqa: PLW0603 - a pair that is replaced whole, so that threads need no lock
    held, rows = _known
    changed = execute(_READ, [held]).fetchone()
    if changed is not None:
        held, rows = changed[0], tuple(map(_row, orjson.loads(changed[1])))
        _known = held, rows
    return rows


def _row(held: Mapping[str, Any]) -> _Row:
    columns = (
        "name", "provider", "base_url", "tier", "quality_rank", "context_limit", "output_limit", "tokenizer",
    )  # fmt: skip
    return _Row(
        {name: held[name] for name in columns} | {"capabilities": frozenset(held["capabilities"])},
        tuple(
            ModelPrice(
                valid_from=datetime.fromisoformat(price["valid_from"]),
                currency=price["currency"],
                input_price=price["input_price"],
                cached_price=price["cached_price"],
                output_price=price["output_price"],
            )
            for price in held["prices"]
        ),
    )


def _entry(row: _Row, when: datetime) -> ModelEntry | None:
    """Return a model with its newest price that was valid then, None without one."""
    prices = [price for price in row.prices if price.valid_from <= when]
    return ModelEntry(**row.entry, price=prices[-1]) if prices else None


def _scripted_entry() -> ModelEntry:
    return ModelEntry(
        name=SCRIPTED,
        provider=SCRIPTED,
        base_url="",
        tier="local",
        quality_rank=1000,
        context_limit=100_000,
        output_limit=100_000,
        tokenizer="words",
        capabilities=frozenset({"answers", "planning", "tools", "json_schema"}),
        price=ModelPrice(
            valid_from=datetime.fromisoformat("2024-10-02T00:00:00+00:00"),
            currency="USD",
            input_price=1_000_000,
            cached_price=1_000_000,
            output_price=2_000_000,
        ),
    )
