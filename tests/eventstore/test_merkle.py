from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartrita.eventstore.merkle import EMPTY_ROOT, Frontier, node_hash

# The eight inputs and roots that Certificate Transparency's reference implementation tests itself with.
INPUTS = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def tree_hash(leaves: list[bytes]) -> bytes:
    """MTH as RFC 6962 writes it down."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(tree_hash(leaves[:split]), tree_hash(leaves[split:]))


hashes = st.lists(st.binary(min_size=32, max_size=32), max_size=70)


class TestFrontier:
    def test_of_nothing_has_the_hash_of_nothing_as_root(self) -> None:
        assert Frontier().root() == EMPTY_ROOT == sha256(b"").digest()

    @pytest.mark.parametrize("size", range(1, 9))
    def test_reaches_the_known_roots(self, size: int) -> None:
        frontier = Frontier()
        frontier.extend(sha256(b"\0" + bytes.fromhex(text)).digest() for text in INPUTS[:size])
        assert frontier.root().hex() == ROOTS[size - 1]

    @given(hashes)
    def test_has_the_root_of_the_definition(self, leaves: list[bytes]) -> None:
        frontier = Frontier()
        frontier.extend(leaves)
        assert frontier.size == len(leaves)
        assert frontier.root() == tree_hash(leaves)

    @given(hashes, hashes)
    def test_goes_on_from_its_peaks(self, first: list[bytes], then: list[bytes]) -> None:
        frontier = Frontier()
        frontier.extend(first)
        later = Frontier(frontier.size, frontier.peaks())
        later.extend(then)
        assert later.root() == tree_hash(first + then)
        assert frontier.root() == tree_hash(first)

    def test_refuses_peaks_of_another_size(self) -> None:
        with pytest.raises(ValueError, match="a frontier of 3 leaves has 2 hashes"):
            Frontier(3, b"x" * 32)
