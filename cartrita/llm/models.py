"""Rows of the catalog (which models there are, what they cost from when on) and whether they are called."""

from django.contrib.postgres.fields import ArrayField
from django.db import models


class Model(models.Model):
    """A model that can be called; `cartrita.llm.catalog` turns rows into entries."""

    id = models.UUIDField(primary_key=True)
    name = models.CharField(max_length=100, unique=True)
    provider = models.CharField(max_length=40)
    base_url = models.CharField(max_length=400, blank=True, default="")
    tier = models.CharField(max_length=20)
    quality_rank = models.PositiveSmallIntegerField()
    context_limit = models.PositiveIntegerField()
    output_limit = models.PositiveIntegerField()
    tokenizer = models.CharField(max_length=40)
    capabilities = models.JSONField(default=list)

    class Meta:
        ordering = ("quality_rank", "name")

    def __str__(self) -> str:
        return self.name


class Price(models.Model):
    """What a model costs from `valid_from` on, in micro-units of `currency` per million tokens."""

    id = models.UUIDField(primary_key=True)
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="prices")
    valid_from = models.DateTimeField()
    currency = models.CharField(max_length=3)
    input_price = models.BigIntegerField()
    cached_price = models.BigIntegerField()
    output_price = models.BigIntegerField()

    class Meta:
        ordering = ("model", "-valid_from")
        constraints = (
            models.UniqueConstraint(fields=("model", "valid_from"), name="llm_one_price_at_a_time"),
            models.CheckConstraint(
                condition=models.Q(input_price__gte=0, cached_price__gte=0, output_price__gte=0),
                name="llm_price_not_negative",
            ),
        )

    def __str__(self) -> str:
        return f"{self.model_id} from {self.valid_from:%Y-%m-%d}"


class Circuit(models.Model):
    """Whether a model is called now; `cartrita.llm.circuit` says what the columns mean."""

    id = models.UUIDField(primary_key=True)
    provider = models.CharField(max_length=40)
    model = models.CharField(max_length=100)
    state = models.CharField(max_length=10, default="closed")
    failed_at = ArrayField(models.DateTimeField(), default=list)
    openings = models.PositiveIntegerField(default=0)
    until = models.DateTimeField(null=True)
    probe_id = models.UUIDField(null=True)
    failure = models.CharField(max_length=40, blank=True, default="")
    changed_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("provider", "model")
        constraints = (models.UniqueConstraint(fields=("provider", "model"), name="llm_one_circuit_a_model"),)

    def __str__(self) -> str:
        return f"{self.model}: {self.state}"
