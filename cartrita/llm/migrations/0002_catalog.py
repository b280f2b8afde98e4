"""Fills the catalog: OpenAI's three tiers at their list prices, and the model that runs here."""

from datetime import UTC, datetime
from uuid import UUID, uuid5

from django.db import migrations

CATALOG = UUID("6b1ed0e4-52d8-5c12-9c0e-0b9a6f1d7c55")
VALID_FROM = datetime(2024, 10, 2, tzinfo=UTC)

# name, provider, tier, rank, context, output, tokenizer, capabilities, input and output price (micro-USD per
# million tokens). Cached prompt tokens cost what others do until a price row says otherwise: the cost shown
# is then never too low.
MODELS = (
    ("gpt-4o", "openai", "premium", 10, 128_000, 16_384, "o200k_base",
     ["answers", "planning", "tools", "json_schema", "json_object", "vision"], 2_500_000, 10_000_000),
    ("gpt-4o-mini", "openai", "standard", 20, 128_000, 16_384, "o200k_base",
     ["answers", "planning", "tools", "json_schema", "json_object", "vision"], 150_000, 600_000),
    ("gpt-3.5-turbo", "openai", "fallback", 30, 16_385, 4_096, "cl100k_base",
     ["answers", "tools", "json_object"], 500_000, 1_500_000),
    # Too small to be trusted with an answer of its own, hence without `answers`.
    ("SmolLM2-135M-Instruct", "local", "local", 100, 2_048, 1_024, "server", ["json_schema"], 0, 0),
)  # fmt: skip


def add_models(apps, _schema_editor):
    model_rows = apps.get_model("llm", "Model")
    price_rows = apps.get_model("llm", "Price")
    for name, provider, tier, rank, context, output, tokenizer, capabilities, price_in, price_out in MODELS:
        row = model_rows.objects.create(
            id=uuid5(CATALOG, name),
            name=name,
            provider=provider,
            tier=tier,
            quality_rank=rank,
            context_limit=context,
            output_limit=output,
            tokenizer=tokenizer,
            capabilities=capabilities,
        )
        price_rows.objects.create(
            id=uuid5(row.id, VALID_FROM.isoformat()),
            model=row,
            valid_from=VALID_FROM,
            currency="USD",
            input_price=price_in,
            cached_price=price_in,
            output_price=price_out,
        )


def remove_models(apps, _schema_editor):
    apps.get_model("llm", "Model").objects.filter(name__in=[row[0] for row in MODELS]).delete()


class Migration(migrations.Migration):
    dependencies = [("llm", "0001_models_and_prices")]
    operations = [migrations.RunPython(add_models, remove_models)]
