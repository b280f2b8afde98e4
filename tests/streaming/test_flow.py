"""Limits of one connection."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartrita.streaming.flow import Bucket, Flow, Window
from cartrita.streaming.protocol import WINDOW_BYTES, WINDOW_FRAMES, MalformedFrame


class TestWindow:
    def test_closes_after_32_frames(self) -> None:
        window = Window()
        for _ in range(WINDOW_FRAMES):
            assert window.is_open
            window = window.sent(10, at=1.0)
        assert not window.is_open
        assert window.acknowledged(1, at=2.0).is_open

    def test_closes_after_256_kib(self) -> None:
        window = Window().sent(WINDOW_BYTES - 1, at=1.0)
        assert window.is_open
        window = window.sent(1, at=2.0)
        assert not window.is_open
        assert window.acknowledged(2, at=3.0) == Window(next_number=3)

    def test_is_stalled_30_s_after_it_closed(self) -> None:
        window = Window().sent(WINDOW_BYTES, at=5.0)
        assert not window.stalled(at=34.9)
        assert window.stalled(at=35.0)

    def test_counts_a_stall_anew_after_progress(self) -> None:
        window = Window().sent(1, at=0.0).sent(WINDOW_BYTES, at=0.0)
        window = window.acknowledged(1, at=20.0)
        assert not window.is_open
        assert not window.stalled(at=49.0)
        assert window.stalled(at=50.0)

    def test_takes_an_old_acknowledgement_for_nothing_new(self) -> None:
        window = Window().sent(1, at=0.0).sent(1, at=0.0).acknowledged(2, at=1.0)
        assert window.acknowledged(1, at=9.0) == window

    def test_refuses_an_acknowledgement_of_what_was_not_sent(self) -> None:
        with pytest.raises(MalformedFrame, match="not sent yet") as refused:
            Window().sent(1, at=0.0).acknowledged(2, at=0.0)
        assert refused.value.field == "f"

    @given(st.lists(st.one_of(st.integers(1, 70_000), st.floats(0, 1))))
    def test_never_has_more_than_its_limits_outstanding(self, steps: list[int | float]) -> None:
        window = Window()
        for at, step in enumerate(steps):
            if isinstance(step, int):
                if window.is_open:
                    window = window.sent(step, at=at)
            else:
                window = window.acknowledged(int(step * (window.next_number - 1)), at=at)
            assert len(window.unacknowledged) <= WINDOW_FRAMES
            assert window.bytes < WINDOW_BYTES + 70_000
            assert window.bytes == sum(size for _, size in window.unacknowledged)
            assert (window.full_since is None) == window.is_open


class TestBucket:
    def test_grants_its_burst_then_its_rate(self) -> None:
        bucket = Bucket.full(rate=10, burst=20, at=0.0)
        granted = []
        for _ in range(25):
            bucket, grant = bucket.take(at=0.0)
            granted.append(grant)
        assert granted == [True] * 20 + [False] * 5
        assert bucket.wait == pytest.approx(0.1)
        assert bucket.take(at=0.11)[1]

    @given(st.lists(st.floats(0, 5), max_size=200))
    def test_never_grants_more_than_burst_and_rate(self, pauses: list[float]) -> None:
        bucket, now, grants = Bucket.full(rate=10, burst=20, at=0.0), 0.0, 0
        for pause in pauses:
            now += pause
            bucket, granted = bucket.take(at=now)
            grants += granted
        assert grants <= 20 + 10 * now + 1e-6


class TestFlow:
    def test_ends_after_20_malformed_frames(self) -> None:
        flow = Flow.begin(at=0.0)
        answers = []
        for _ in range(21):
            flow, goes_on = flow.mistaken(at=0.0)
            answers.append(goes_on)
        assert answers == [True] * 20 + [False]

    def test_ends_after_three_oversized_frames(self) -> None:
        flow = Flow.begin(at=0.0)
        answers = []
        for _ in range(4):
            flow, goes_on = flow.exceeded(at=0.0)
            answers.append(goes_on)
        assert answers == [True] * 3 + [False]

    def test_is_silent_45_s_after_the_last_frame(self) -> None:
        flow = Flow.begin(at=0.0).heard(at=10.0)
        assert not flow.silent(at=54.9)
        assert flow.silent(at=55.0)
