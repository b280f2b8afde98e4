"""Counting tokens offline, as OpenAI's models do."""

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartrita.llm import vocabularies
from cartrita.llm.vocabularies import PIECE


class TestCount:
    @pytest.mark.parametrize(
        ("vocabulary", "text", "tokens"),
        [
            # As OpenAI's own documentation of the two encodings counts them.
            ("cl100k_base", "antidisestablishmentarianism", 6),
            ("o200k_base", "antidisestablishmentarianism", 6),
            ("cl100k_base", "2 + 2 = 4", 7),
            ("o200k_base", "2 + 2 = 4", 7),
            ("cl100k_base", "お誕生日おめでとう", 9),
            ("o200k_base", "お誕生日おめでとう", 8),
            ("cl100k_base", "", 0),
            ("cl100k_base", "<|endoftext|>", 7),
        ],
    )
    def test_gives_the_documented_figure(self, vocabulary: str, text: str, tokens: int) -> None:
        assert vocabularies.count(vocabulary, text) == tokens

    def test_opens_no_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            pytest.fail("the vocabulary was to come from the package")

        vocabularies._encoding.cache_clear()
        monkeypatch.setattr(socket.socket, "connect", refuse)
        assert vocabularies.count("o200k_base", "hello world") == 2

    @pytest.mark.parametrize("text", [" " * 1_000_000, "A" * 1_000_000, "\n" * 300_000, "é" * 300_000])
    def test_survives_long_runs(self, text: str) -> None:
        assert vocabularies.count("o200k_base", text) > 0

    def test_of_a_long_text_is_exact_where_it_can_be_cut_at_blanks(self) -> None:
        words = "The quick brown fox jumps over the lazy dog. "
        text = words * (3 * PIECE // len(words))
        whole = len(vocabularies._encoding("o200k_base").encode_ordinary(text))
        assert vocabularies.count("o200k_base", text) == whole

    @given(st.text(max_size=200))
    @settings(max_examples=50, deadline=None)
    def test_never_exceeds_the_bytes(self, text: str) -> None:
        assert vocabularies.count("o200k_base", text) <= len(text.encode())
