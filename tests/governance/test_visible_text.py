"""What people who decide are shown of hostile text."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.visible_text import shown


class TestShown:
    @pytest.mark.parametrize(
        ("text", "seen"),
        [
            ("a\u202eb", "a⟦U+202E⟧b"),
            ("\u2066x\u2069", "⟦U+2066⟧x⟦U+2069⟧"),
            ("\u061c\u200e\u200f", "⟦U+061C⟧⟦U+200E⟧⟦U+200F⟧"),
            ("rm\u200b -rf", "rm⟦U+200B⟧ -rf"),
            ("\ufeffa\u00ad", "⟦U+FEFF⟧a⟦U+00AD⟧"),
            ("\x1b[31m", "⟦U+001B⟧[31m"),
            ("a\rb", "a⟦U+000D⟧b"),
            ("a\u00a0b", "a⟦U+00A0⟧b"),
            ("a\u2028b", "a⟦U+2028⟧b"),
            ("\U000e0041", "⟦U+E0041⟧"),
            ("a\ufe0f", "a⟦U+FE0F⟧"),
            ("\u3164", "⟦U+3164⟧"),
            ("ｆull", "⟦U+FF46⟧ull"),
            ("p\u0430ypal", "p⟦U+0430⟧ypal"),
            ("\u0441\u043e\u0440\u0443", "⟦U+0441⟧⟦U+043E⟧⟦U+0440⟧⟦U+0443⟧"),
            ("g\u03bfogle", "g⟦U+03BF⟧ogle"),
            ("a" + "\u0301" * 5, "a" + "\u0301" * 3 + "⟦U+0301⟧⟦U+0301⟧"),
        ],
    )
    def test_makes_visible(self, text: str, seen: str) -> None:
        assert shown(text) == seen

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "print('hello')\n\tif x < 3 && y > 2: pass",
            "<script>alert(1)</script>",
            "Grüße, naïve café, Łódź, İstanbul",
            "Добрый день, как дела?",
            "Καλημέρα κόσμε",
            "日本語のテキスト 中文 한국어",
            "שלום עולם مرحبا",
            "x² + λ = 3 €",
        ],
    )
    def test_leaves_ordinary_text(self, text: str) -> None:
        assert shown(text) == text

    @given(text=st.text(max_size=40))
    def test_leaves_nothing_hidden(self, text: str) -> None:
        for character in shown(text):
            assert character in "\n\t " or unicodedata.category(character) not in {
                "Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp", "Zs",
            }  # fmt: skip
