"""The catalog's rows, and the arithmetic of prices."""

from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from cartrita.accounts.models import User
from cartrita.llm import catalog
from cartrita.llm.catalog import ModelNotConfigured, ModelPrice, UnknownModel
from cartrita.llm.models import Model, Price
from tests.databases import Database

tokens = st.integers(min_value=0, max_value=10_000_000)
prices = st.integers(min_value=0, max_value=10**9)


def price(input_price: int, output_price: int, cached_price: int | None = None) -> ModelPrice:
    cached = input_price if cached_price is None else cached_price
    return ModelPrice(datetime(2025, 1, 1, tzinfo=UTC), "USD", input_price, cached, output_price)


class TestCost:
    @given(prices, prices, tokens, tokens)
    def test_is_the_exact_price_rounded_up(self, per_in: int, per_out: int, n_in: int, n_out: int) -> None:
        cost = price(per_in, per_out).cost(prompt_tokens=n_in, completion_tokens=n_out)
        exact = Fraction(per_in * n_in, 10**6) + Fraction(per_out * n_out, 10**6)
        assert exact <= cost < exact + 1

    @given(prices, prices, tokens, tokens, st.data())
    def test_of_cached_tokens_lies_between_the_two_prices(
        self, one: int, other: int, n_in: int, n_out: int, data: st.DataObject
    ) -> None:
        cheap, dear = sorted((one, other))
        cached = data.draw(st.integers(0, n_in))
        cost = price(dear, 1, cheap).cost(prompt_tokens=n_in, completion_tokens=n_out, cached_tokens=cached)
        least = price(cheap, 1).cost(prompt_tokens=n_in, completion_tokens=n_out)
        most = price(dear, 1).cost(prompt_tokens=n_in, completion_tokens=n_out)
        assert least <= cost <= most

    def test_of_a_thousand_tokens_of_gpt_4o_is_a_cent_and_a_quarter(self) -> None:
        cost = price(2_500_000, 10_000_000).cost(prompt_tokens=1000, completion_tokens=1000)
        assert cost == 12_500


class TestModels:
    def test_are_the_three_tiers_and_the_local_model(self, database: Database) -> None:
        found = {
            entry.name: (entry.tier, entry.price.input_price, entry.price.output_price, entry.context_limit)
            for entry in catalog.models()
            if not entry.can("embeddings")
        }
        assert found == {
            "gpt-4o": ("premium", 2_500_000, 10_000_000, 128_000),
            "gpt-4o-mini": ("standard", 150_000, 600_000, 128_000),
            "gpt-3.5-turbo": ("fallback", 500_000, 1_500_000, 16_385),
            "SmolLM2-135M-Instruct": ("local", 0, 0, 2_048),
        }

    def test_that_make_embeddings_are_never_chosen_to_talk(
        self, database: Database, settings: Settings
    ) -> None:
        settings.OPENAI_API_KEY = "a-key-of-the-tests"
        makers = {
            entry.name: entry.price.input_price for entry in catalog.models() if entry.can("embeddings")
        }
        assert makers == {
            "text-embedding-3-large": 130_000,
            "text-embedding-3-small": 20_000,
            "text-embedding-ada-002": 100_000,
            "all-minilm-l6-v2": 0,
        }
        talking = [entry for entry in catalog.models() if entry.name not in makers]
        for entry in talking:
            assert makers.keys().isdisjoint(each.name for each in catalog.fallbacks(entry))
            assert getattr(catalog.cheaper(entry), "name", "") not in makers
        for tier in catalog.TIERS:
            assert catalog.choose(name=None, tier=tier, purpose="execution").name not in makers

    def test_that_make_embeddings_are_found_by_name_and_tier(
        self, database: Database, settings: Settings
    ) -> None:
        assert catalog.embedding_model("local").name == "all-minilm-l6-v2"
        with pytest.raises(ModelNotConfigured):
            catalog.embedding_model("text-embedding-3-small")
        settings.OPENAI_API_KEY = "a-key-of-the-tests"
        assert catalog.embedding_model("standard").name == "text-embedding-3-small"
        with pytest.raises(UnknownModel, match="all-minilm-l6-v2, text-embedding-3-large"):
            catalog.embedding_model("gpt-4o")

    def test_are_named_by_their_tier_too(self, database: Database, settings: Settings) -> None:
        settings.OPENAI_API_KEY = "a-key-of-the-tests"
        assert catalog.choose(name="premium", tier=None, purpose="execution").name == "gpt-4o"

    def test_do_not_trust_the_local_one_with_answers(self, database: Database) -> None:
        assert not catalog.model("SmolLM2-135M-Instruct").can("answers")
        assert catalog.model("gpt-4o").can("answers")

    def test_cost_what_was_valid_at_the_time(self, database: Database) -> None:
        row = Model.objects.get(name="gpt-4o")
        later = datetime(2026, 1, 1, tzinfo=UTC)
        with database.as_owner():
            Price.objects.create(
                id=row.id,
                model=row,
                valid_from=later,
                currency="EUR",
                input_price=1,
                cached_price=1,
                output_price=1,
            )
        before = catalog.model("gpt-4o", at=datetime(2025, 12, 31, 23, 59, tzinfo=UTC))
        assert (before.price.currency, before.price.input_price) == ("USD", 2_500_000)
        assert catalog.model("gpt-4o", at=later).price.currency == "EUR"

    def test_are_read_again_once_they_changed_and_once_that_was_undone(self, database: Database) -> None:
        usual = catalog.model("gpt-4o")
        with database.as_owner(), transaction.atomic():
            Model.objects.filter(name="gpt-4o").update(quality_rank=usual.quality_rank + 50)
            assert catalog.model("gpt-4o").quality_rank == usual.quality_rank + 50
            transaction.set_rollback(True)
        assert catalog.model("gpt-4o") == usual

    def test_did_not_exist_before_their_first_price(self, database: Database) -> None:
        with pytest.raises(UnknownModel):
            catalog.model("gpt-4o", at=datetime(2020, 1, 1, tzinfo=UTC))


class TestFallbacks:
    def names(self, name: str, **options: Any) -> list[str]:
        return [each.name for each in catalog.fallbacks(catalog.model(name), **options)]

    def test_go_down_the_tiers_and_never_up(self, database: Database, settings: Settings) -> None:
        settings.OPENAI_API_KEY = "key"
        chain = ["gpt-4o", "gpt-4o-mini", "gpt-3.5-turbo", "SmolLM2-135M-Instruct"]
        for number, name in enumerate(chain):
            assert self.names(name) == chain[number + 1 :]

    def test_have_what_the_call_needs(self, database: Database, settings: Settings) -> None:
        settings.OPENAI_API_KEY = "key"
        assert self.names("gpt-4o", needs=frozenset({"json_schema"})) == [
            "gpt-4o-mini",
            "SmolLM2-135M-Instruct",
        ]
        assert self.names("gpt-4o", needs=frozenset({"planning"})) == ["gpt-4o-mini"]

    def test_can_be_called(self, database: Database, settings: Settings) -> None:
        settings.OPENAI_API_KEY = ""
        assert self.names("gpt-4o") == ["SmolLM2-135M-Instruct"]

    def test_are_worse_ones_of_the_same_tier_too(self, database: Database, settings: Settings) -> None:
        settings.OPENAI_API_KEY = "key"
        row = Model.objects.get(name="gpt-4o-mini")
        with database.as_owner():
            Model.objects.filter(id=row.id).update(tier="premium")
        assert self.names("gpt-4o")[0] == "gpt-4o-mini"
        assert self.names("gpt-4o-mini") == ["gpt-3.5-turbo", "SmolLM2-135M-Instruct"]

    def test_are_never_the_tests_own(self, database: Database, settings: Settings) -> None:
        settings.OPENAI_API_KEY, settings.SCRIPTED_MODEL = "key", "/script.json"
        assert "scripted" not in self.names("gpt-4o")
        assert self.names("scripted") == []


class TestCatalogInTheAdmin:
    def test_can_be_read_and_not_changed(self, database: Database, client: Client) -> None:
        person = User.objects.create(email="root@example.org", is_staff=True, is_superuser=True)
        client.force_login(person)
        row = Model.objects.get(name="gpt-4o")
        assert client.get("/admin/llm/model/").status_code == 200
        assert "2500000" in client.get(f"/admin/llm/model/{row.id}/change/").content.decode()
        assert client.post(f"/admin/llm/model/{row.id}/change/", {"name": "mine"}).status_code == 403
        assert client.post(f"/admin/llm/model/{row.id}/delete/").status_code == 403
        assert client.get("/admin/llm/model/add/").status_code == 403
