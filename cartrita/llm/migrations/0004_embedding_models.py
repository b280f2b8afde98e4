"""Adds the models that make embeddings: OpenAI's at their list prices, and the one that runs here."""

from datetime import UTC, datetime
from uuid import UUID, uuid5

from django.db import migrations

CATALOG = UUID("6b1ed0e4-52d8-5c12-9c0e-0b9a6f1d7c55")
VALID_FROM = datetime(2024, 10, 2, tzinfo=UTC)

# name, provider, tier, rank, tokens a text, tokenizer, price (micro-USD per million tokens).
MODELS = (
    ("text-embedding-3-large", "openai", "premium", 210, 8_191, "cl100k_base", 130_000),
    ("text-embedding-3-small", "openai", "standard", 220, 8_191, "cl100k_base", 20_000),
    ("text-embedding-ada-002", "openai", "fallback", 230, 8_191, "cl100k_base", 100_000),
    ("all-minilm-l6-v2", "minilm", "local", 240, 256, "server", 0),
)


def add_models(apps, _schema_editor):
    model_rows = apps.get_model("llm", "Model")
    price_rows = apps.get_model("llm", "Price")
    for name, provider, tier, rank, context, tokenizer, price in MODELS:
        row = model_rows.objects.create(
            id=uuid5(CATALOG, name),
            name=name,
            provider=provider,
            tier=tier,
            quality_rank=rank,
            context_limit=context,
            output_limit=0,
            tokenizer=tokenizer,
            capabilities=["embeddings"],
        )
        price_rows.objects.create(
            id=uuid5(row.id, VALID_FROM.isoformat()),
            model=row,
            valid_from=VALID_FROM,
            currency="USD",
            input_price=price,
            cached_price=price,
            output_price=0,
        )


def remove_models(apps, _schema_editor):
    apps.get_model("llm", "Model").objects.filter(name__in=[row[0] for row in MODELS]).delete()


class Migration(migrations.Migration):
    dependencies = [("llm", "0003_circuits")]
    operations = [migrations.RunPython(add_models, remove_models)]
