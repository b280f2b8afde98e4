import pytest

from retrieval.search import DENSE_WEIGHT, DEPTH, RARE_WORDS, fuse

RARE = 5.0


class TestFuse:
    def test_gives_full_weight_to_words_that_tell(self) -> None:
        best, half, none = fuse([(1, 20.0, 0.2, RARE), (2, 10.0, 0.7, RARE), (3, None, 0.6, RARE)])
        assert best.score == pytest.approx(1 - DENSE_WEIGHT)
        assert half.score == pytest.approx(DENSE_WEIGHT + (1 - DENSE_WEIGHT) / 2)
        assert none.score == pytest.approx(DENSE_WEIGHT * 0.8)

    def test_does_not_stretch_a_lead_in_common_words(self) -> None:
        common, meant = fuse([(1, 3.0, 0.2, RARE), (2, 1.0, 0.7, RARE)])
        assert common.score == pytest.approx((1 - DENSE_WEIGHT) * 3.0 / (RARE_WORDS * RARE))
        assert meant.score > common.score

    def test_scales_alike_however_many_are_found(self) -> None:
        rows = [(number, 300.0 - number, 0.9 - number / 1000, RARE) for number in range(DEPTH)]
        more = [(number, 300.0 - number, 0.9 - number / 1000, RARE) for number in range(DEPTH, 3 * DEPTH)]
        assert fuse(rows + more)[:DEPTH] == fuse(rows)
        assert all(candidate.score > 0 for candidate in fuse(rows + more))

    def test_ranks_by_the_leg_that_has_something_to_say(self) -> None:
        assert [candidate.score for candidate in fuse([(1, 15.0, None, RARE), (2, 3.0, None, RARE)])] == [
            pytest.approx(1 - DENSE_WEIGHT),
            pytest.approx((1 - DENSE_WEIGHT) / 5),
        ]
        assert fuse([]) == []
