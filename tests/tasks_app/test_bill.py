"""What a plan will use: percentiles of draws, their sums, and whether they hold what comes."""

import random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_app.bill import Known, Past, Reckoned, amounts, billed, quantile, reckon, sum_of
from tasks_app.plan import Amounts, Foreseen, Plan, PlanBilled, extend

TASK = UUID(int=7)
KNOWN = Known(1000, 500)

draws = st.lists(st.integers(0, 10**9), min_size=1, max_size=40)
uses = st.builds(
    Past,
    known=st.builds(Known, st.integers(0, 10**5), st.integers(0, 10**4)),
    prompt_tokens=st.integers(0, 10**6),
    completion_tokens=st.integers(0, 10**6),
    cost_micros=st.integers(0, 10**9),
    currency=st.sampled_from(["USD", "EUR"]),
)


def per_token(prompt: int, completion: int) -> int:
    return prompt + 4 * completion


def reckoned(*past: Past, known: Known = KNOWN, priced: bool = True, **more: object) -> Reckoned:
    return reckon(
        task_id=TASK,
        agent="assistant",
        tool="",
        model="small",
        known=known,
        past=past,
        price=per_token if priced else None,
        **more,  # type: ignore[arg-type]
    )


def past(prompt: int, completion: int, known: Known = KNOWN, *, cost: int = 0, currency: str = "USD") -> Past:
    return Past(known, prompt, completion, cost, currency)


class TestQuantile:
    def test_lies_between_neighbours_in_proportion(self) -> None:
        nine = [10, 20, 30, 40, 50, 60, 70, 80, 90]
        assert [quantile(nine, p, 100) for p in (1, 10, 15, 50, 90, 99)] == [10, 10, 15, 50, 90, 90]
        assert quantile([], 1, 2) == 0

    @given(draws, st.integers(1, 999), st.integers(1, 999))
    def test_grows_with_the_probability(self, values: list[int], one: int, other: int) -> None:
        ordered = sorted(values)
        low, high = sorted((one, other))
        assert ordered[0] <= quantile(ordered, low, 1000) <= quantile(ordered, high, 1000) <= ordered[-1]

    @given(draws, st.integers(0, 39), st.integers(0, 1000))
    def test_does_not_fall_when_a_draw_grows(self, values: list[int], place: int, more: int) -> None:
        larger = [*values]
        larger[place % len(values)] += more
        assert all(quantile(sorted(values), p, 10) <= quantile(sorted(larger), p, 10) for p in (1, 5, 9))


class TestSumOf:
    @given(draws)
    def test_of_one_task_is_that_of_the_task(self, values: list[int]) -> None:
        assert sum_of([values]) == amounts(values)

    @given(st.lists(draws, max_size=4), draws)
    def test_does_not_fall_with_a_task_more(self, tasks: list[list[int]], more: list[int]) -> None:
        less, all_of_them = sum_of(tasks), sum_of([*tasks, more])
        assert less.p10 <= all_of_them.p10
        assert less.p50 <= all_of_them.p50
        assert less.p90 <= all_of_them.p90

    @given(st.lists(draws, max_size=4))
    def test_is_ordered_and_always_the_same(self, tasks: list[list[int]]) -> None:
        found = sum_of(tasks)
        assert found.p10 <= found.p50 <= found.p90
        assert found == sum_of([values[::-1] for values in tasks])
        assert sum(map(min, tasks)) <= found.p10
        assert found.p90 <= sum(map(max, tasks))

    def test_is_narrower_than_the_sum_of_percentiles(self) -> None:
        tasks = [list(range(0, 1000, 10))] * 4
        found, one = sum_of(tasks), amounts(tasks[0])
        assert found.p90 - found.p10 < 4 * (one.p90 - one.p10) * 0.6
        assert found.p50 == pytest.approx(4 * one.p50, rel=0.02)


class TestReckon:
    def test_estimates_without_samples(self) -> None:
        line = billed([reckoned()]).lines[0]
        assert line.samples == 0
        assert line.tokens == Amounts(p10=650, p50=1250, p90=1850)
        assert line.cost.p50 == 1000 + 4 * 250

    def test_scales_past_uses_to_prompt_and_bound(self) -> None:
        long_ago = past(400, 100, Known(500, 250))
        line = billed([reckoned(*[long_ago] * 9)]).lines[0]
        assert line.samples == 9
        assert line.tokens == Amounts(p10=1000, p50=1000, p90=1000)
        assert line.cost.p50 == 800 + 4 * 200

    def test_takes_past_uses_as_they_are_where_nothing_was_known(self) -> None:
        line = billed([reckoned(*[past(400, 100, Known(0, 0))] * 9)]).lines[0]
        assert line.tokens.p50 == 500

    def test_stays_wide_with_few_samples(self) -> None:
        few = billed([reckoned(past(1000, 250))]).lines[0].tokens
        many = billed([reckoned(*[past(1000, 250)] * 40)]).lines[0].tokens
        assert few.p90 - few.p10 > many.p90 - many.p10 == 0

    def test_takes_what_was_paid_where_no_price_is_known(self) -> None:
        paid = [past(0, 0, cost=70, currency="EUR")] * 9
        line = billed([reckoned(past(0, 0), *paid, past(0, 0, cost=9), priced=False)]).lines[0]
        assert (line.cost.currency, line.cost.p50, line.samples) == ("EUR", 70, 10)

    @given(st.lists(uses, max_size=12), st.booleans())
    def test_gives_ordered_percentiles_and_always_the_same(self, of_old: list[Past], priced: bool) -> None:
        bill = billed([reckoned(*of_old, priced=priced), reckoned(*of_old[::-1], priced=priced)])
        for each in (bill.tokens, *bill.costs, *(line.tokens for line in bill.lines)):
            assert each.p10 <= each.p50 <= each.p90
        assert bill == billed([reckoned(*of_old, priced=priced), reckoned(*of_old[::-1], priced=priced)])


class TestBilled:
    def test_sums_money_by_currency(self) -> None:
        euros = reckoned(*[past(0, 0, cost=70, currency="EUR")] * 9, priced=False)
        bill = billed([reckoned(), euros, euros])
        assert {money.currency: money.p50 for money in bill.costs} == {"USD": 2000, "EUR": 140}

    def test_counts_what_policy_would_hold_up(self) -> None:
        held = [
            Foreseen(act="tool_call", subject="x", outcome=outcome, rule="r", sure=True)
            for outcome in ("escalate", "deny", "escalate", "throttle")
        ]
        bill = billed([reckoned(foreseen=(held[0],)), reckoned(foreseen=tuple(held[1:]))])
        assert (bill.approvals, bill.denials, bill.throttles) == (2, 1, 1)

    def test_of_nothing_is_nothing(self) -> None:
        bill = billed([])
        assert (bill.tokens, bill.costs) == (Amounts(p10=0, p50=0, p90=0), ())

    def test_of_a_plan_is_the_first(self) -> None:
        first, second = billed([reckoned()]), billed([])
        plan = extend(Plan(), [first, second])
        assert (plan.bill, plan.version) == (first, 2)
        assert PlanBilled.model_validate(first.model_dump(mode="json")) == first


class TestCoverage:
    """Plans of 1 to 4 tasks whose use is drawn from the distribution of the past (seed 2026)."""

    @pytest.mark.parametrize("samples", [9, 30, 200])
    def test_is_near_four_fifths_when_the_future_is_like_the_past(self, samples: int) -> None:
        draw = random.Random(2026)

        def used(known: Known) -> Past:
            answer = min(draw.lognormvariate(-1, 0.7), 3.0) * known.output_tokens
            retried = 2 if draw.random() < 0.1 else 1
            prompt = draw.gauss(1, 0.1) * known.prompt_tokens
            return Past(known, round(max(prompt, 0) * retried), round(answer * retried))

        def known() -> Known:
            return Known(draw.randint(200, 4000), draw.choice((256, 512, 1024)))

        inside, plans = 0, 400
        for _ in range(plans):
            asked = [known() for _ in range(draw.randint(1, 4))]
            tasks = [reckoned(*(used(known()) for _ in range(samples)), known=each) for each in asked]
            came_to = sum(one.prompt_tokens + one.completion_tokens for one in map(used, asked))
            bill = billed(tasks)
            inside += bill.tokens.p10 <= came_to <= bill.tokens.p90
        assert 0.72 <= inside / plans <= 0.88
