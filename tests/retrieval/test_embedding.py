import shutil
from pathlib import Path

import numpy as np
import pytest

from retrieval import embedding
from retrieval.embedding import EmbeddingUnavailable, encoder, find_weights, network_file


class TestEncoder:
    def test_puts_like_meanings_near_one_another(self) -> None:
        food, eats, violin = encoder().encode(
            ["A man is eating food.", "A man eats something.", "The girl plays a violin."]
        )
        assert food @ eats > 0.8
        assert abs(food @ violin) < 0.2

    def test_gives_unit_vectors_that_do_not_depend_on_their_neighbours(self) -> None:
        texts = ["One.", "Two words and many more " * 100, "", "漢字 🙂"]
        together = encoder().encode(texts)
        assert together.shape == (4, 384)
        assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
        for text, vector in zip(texts, together, strict=True):
            assert np.array_equal(encoder().encode_one(text), vector)

    def test_agrees_with_the_published_model(self) -> None:
        # The first values that the unquantised model gives for this sentence.
        vector = encoder().encode_one("This is an example sentence")
        published = [0.0677, 0.0635, 0.0487, 0.0793, 0.0374, -0.0026, 0.0394, -0.0098]
        assert np.abs(vector[:8] - published).max() < 0.03

    def test_knows_rare_words_from_common_ones(self) -> None:
        common, rare, unknown = (encoder().rarity(word) for word in ("was", "monastery", "Zephyrine"))
        assert 0 < common < rare < unknown == 1


class TestNetworkFile:
    def test_is_built_once(self, home: Path) -> None:
        weights = find_weights()
        first = network_file(home, weights)
        assert network_file(home, Path("/nowhere")) == first
        assert 20e6 < first.stat().st_size < 30e6

    def test_refuses_other_weights(self, tmp_path: Path) -> None:
        weights = tmp_path / "model.safetensors"
        weights.write_bytes(b"something else")
        with pytest.raises(EmbeddingUnavailable, match="SHA-256"):
            network_file(tmp_path, weights)
        assert not list((tmp_path / "models").glob("*")) if (tmp_path / "models").exists() else True

    def test_leaves_nothing_half_built(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(source: Path, target: Path) -> None:
            target.write_bytes(b"half")
            raise OSError("no space left")

        monkeypatch.setattr(embedding, "_quantise", failing)
        with pytest.raises(OSError, match="no space"):
            network_file(tmp_path, find_weights())
        assert list((tmp_path / "models").iterdir()) == []
        shutil.rmtree(tmp_path / "models")

    def test_says_which_package_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedding, "WEIGHTS_PACKAGE", "no_such_package")
        with pytest.raises(EmbeddingUnavailable, match="no-such-package"):
            find_weights()
