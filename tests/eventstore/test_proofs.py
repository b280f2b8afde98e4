"""Proofs of the Merkle tree: against the definition, the known vectors, and another implementation."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartrita.eventstore.merkle import node_hash
from cartrita.eventstore.proofs import (
    ConsistencyProof,
    InclusionProof,
    ProofMalformed,
    ProofOutOfRange,
    Subtree,
    consistency_parts,
    inclusion_parts,
    prove_consistency,
    prove_inclusion,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from tests.eventstore.test_merkle import INPUTS, ROOTS, tree_hash

LARGEST = 200
LEAVES = [sha256(b"\0%d" % number).digest() for number in range(LARGEST)]
KNOWN = [sha256(b"\0" + bytes.fromhex(text)).digest() for text in INPUTS]

# Audit paths and proofs for the eight inputs, as Certificate Transparency's implementations test themselves.
KNOWN_PATHS = {
    (1, 1): (),
    (1, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (6, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (3, 3): ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",),
    (2, 5): (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
KNOWN_PROOFS = {
    (1, 1): (),
    (1, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}

sizes = st.integers(1, LARGEST)


class Nodes:
    """The complete subtrees over some leaves, computed from the leaves each time."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.leaves = leaves

    def __call__(self, subtree: Subtree) -> bytes:
        level, index = subtree
        covered = self.leaves[index << level : (index + 1) << level]
        assert len(covered) == 1 << level, "only complete subtrees are stored"
        return tree_hash(list(covered))


def path_by_definition(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH as RFC 6962, section 2.1.1, writes it down."""
    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return [*path_by_definition(index, leaves[:split]), tree_hash(leaves[split:])]
    return [*path_by_definition(index - split, leaves[split:]), tree_hash(leaves[:split])]


def proof_by_definition(first: int, leaves: list[bytes], *, known: bool = True) -> list[bytes]:
    """SUBPROOF as RFC 6962, section 2.1.2, writes it down."""
    if first == len(leaves):
        return [] if known else [tree_hash(leaves)]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if first <= split:
        return [*proof_by_definition(first, leaves[:split], known=known), tree_hash(leaves[split:])]
    return [*proof_by_definition(first - split, leaves[split:], known=False), tree_hash(leaves[:split])]


class Peer(pymerkle.InmemoryTree):  # type: ignore[misc] # it has no types
    """An independent implementation, given the same leaves."""

    @classmethod
    def over(cls, size: int) -> "Peer":
        tree = cls(algorithm="sha256")
        for number in range(size):
            tree.append_entry(b"%d" % number)
        return tree


class TestInclusion:
    @pytest.mark.parametrize(("position", "size"), KNOWN_PATHS)
    def test_has_the_known_paths(self, position: int, size: int) -> None:
        proof = prove_inclusion(position, size, Nodes(KNOWN))
        assert tuple(step.hex() for step in proof.path) == KNOWN_PATHS[position, size]
        assert proof.leaf == KNOWN[position - 1]
        assert proof.proves(bytes.fromhex(ROOTS[size - 1]))

    @pytest.mark.parametrize("size", [*range(1, 40), 63, 64, 65, 127, 128, 129, 199, 200])
    def test_is_that_of_the_definition_for_every_leaf(self, size: int) -> None:
        leaves = LEAVES[:size]
        root = tree_hash(leaves)
        for index in range(size):
            proof = prove_inclusion(index + 1, size, Nodes(leaves))
            assert list(proof.path) == path_by_definition(index, leaves)
            assert proof.proves(root)

    @given(sizes, st.data())
    def test_does_not_prove_anything_else(self, size: int, data: st.DataObject) -> None:
        leaves = LEAVES[:size]
        root = tree_hash(leaves)
        position = data.draw(st.integers(1, size))
        proof = prove_inclusion(position, size, Nodes(leaves))
        assert proof.proves(root)
        other = data.draw(st.integers(-1, LARGEST + 1).filter(lambda drawn: drawn != position))
        assert not replace(proof, position=other).proves(root)
        assert not replace(proof, leaf=sha256(proof.leaf).digest()).proves(root)
        assert not proof.proves(sha256(root).digest())
        assert not replace(proof, path=(*proof.path, root)).proves(root)
        if proof.path:
            at = data.draw(st.integers(0, len(proof.path) - 1))
            assert not replace(proof, path=proof.path[:at] + proof.path[at + 1 :]).proves(root)
            altered = (*proof.path[:at], sha256(proof.path[at]).digest(), *proof.path[at + 1 :])
            assert not replace(proof, path=altered).proves(root)

    @given(sizes, st.data())
    def test_is_made_of_few_complete_subtrees(self, size: int, data: st.DataObject) -> None:
        parts = inclusion_parts(data.draw(st.integers(0, size - 1)), size)
        assert len(parts) <= size.bit_length()
        assert sum(len(part.subtrees) for part in parts) <= 2 * size.bit_length()

    @given(sizes, st.data())
    def test_agrees_with_another_implementation(self, size: int, data: st.DataObject) -> None:
        position = data.draw(st.integers(1, size))
        peer = Peer.over(size)
        theirs = peer.prove_inclusion(position, size)
        ours = prove_inclusion(position, size, Nodes(LEAVES[:size]))
        assert peer.get_root() == tree_root(size, Nodes(LEAVES[:size]))
        # Theirs has the leaf itself in the path.
        assert set(ours.path) | {ours.leaf} == set(theirs.path)

    @pytest.mark.parametrize(("position", "size"), [(0, 5), (-1, 5), (6, 5), (1, 0)])
    def test_is_refused_beyond_the_tree(self, position: int, size: int) -> None:
        with pytest.raises(ProofOutOfRange) as refused:
            prove_inclusion(position, size, Nodes(LEAVES))
        assert refused.value.field == "position"
        assert not verify_inclusion(position - 1, size, LEAVES[0], (), LEAVES[0])


class TestConsistency:
    @pytest.mark.parametrize(("first", "second"), KNOWN_PROOFS)
    def test_has_the_known_proofs(self, first: int, second: int) -> None:
        proof = prove_consistency(first, second, Nodes(KNOWN))
        assert tuple(step.hex() for step in proof.path) == KNOWN_PROOFS[first, second]
        assert proof.proves(bytes.fromhex(ROOTS[first - 1]), bytes.fromhex(ROOTS[second - 1]))

    @pytest.mark.parametrize("second", [*range(1, 40), 63, 64, 65, 127, 128, 129, 199, 200])
    def test_is_that_of_the_definition_from_every_size(self, second: int) -> None:
        leaves = LEAVES[:second]
        root = tree_hash(leaves)
        for first in range(1, second + 1):
            proof = prove_consistency(first, second, Nodes(leaves))
            assert list(proof.path) == proof_by_definition(first, leaves)
            assert proof.proves(tree_hash(leaves[:first]), root)

    @given(sizes, st.data())
    def test_does_not_prove_anything_else(self, second: int, data: st.DataObject) -> None:
        first = data.draw(st.integers(1, second))
        roots = tree_hash(LEAVES[:first]), tree_hash(LEAVES[:second])
        proof = prove_consistency(first, second, Nodes(LEAVES[:second]))
        assert proof.proves(*roots)
        assert not proof.proves(sha256(roots[0]).digest(), roots[1])
        assert not proof.proves(roots[0], sha256(roots[1]).digest())
        assert not replace(proof, path=(*proof.path, roots[1])).proves(*roots)
        if first < second:
            assert not proof.proves(*roots[::-1])
            assert not replace(proof, first=second).proves(*roots)
            at = data.draw(st.integers(0, len(proof.path) - 1))
            assert not replace(proof, path=proof.path[:at] + proof.path[at + 1 :]).proves(*roots)
            altered = (*proof.path[:at], sha256(proof.path[at]).digest(), *proof.path[at + 1 :])
            assert not replace(proof, path=altered).proves(*roots)

    @given(sizes, st.data())
    def test_finds_a_forked_history(self, second: int, data: st.DataObject) -> None:
        first = data.draw(st.integers(1, second))
        forked_at = data.draw(st.integers(0, first - 1))
        fork = [*LEAVES[:forked_at], sha256(b"other").digest(), *LEAVES[forked_at + 1 : second]]
        proof = prove_consistency(first, second, Nodes(fork))
        assert proof.proves(tree_hash(fork[:first]), tree_hash(fork))
        assert not proof.proves(tree_hash(LEAVES[:first]), tree_hash(fork))

    @given(sizes, st.data())
    def test_agrees_with_another_implementation(self, second: int, data: st.DataObject) -> None:
        first = data.draw(st.integers(1, second))
        peer = Peer.over(second)
        theirs = peer.prove_consistency(first, second)
        pymerkle.verify_consistency(peer.get_root(first), peer.get_root(second), theirs)
        ours = prove_consistency(first, second, Nodes(LEAVES[:second]))
        assert ours.proves(peer.get_root(first), peer.get_root(second))

    @pytest.mark.parametrize(("first", "second"), [(0, 5), (-1, 5), (6, 5)])
    def test_is_refused_where_there_is_none(self, first: int, second: int) -> None:
        with pytest.raises(ProofOutOfRange):
            consistency_parts(first, second)
        assert not verify_consistency(first, second, (), LEAVES[0], LEAVES[0])


class TestJSON:
    def test_holds_an_inclusion_proof(self) -> None:
        proof = prove_inclusion(6, 8, Nodes(KNOWN))
        assert InclusionProof.from_dict(proof.as_dict()) == proof

    def test_holds_a_consistency_proof(self) -> None:
        proof = prove_consistency(6, 8, Nodes(KNOWN))
        assert ConsistencyProof.from_dict(proof.as_dict()) == proof

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("format", "cartrita.inclusion.v2"),
            ("position", "6"),
            ("position", True),
            ("position", 0),
            ("size", 2**63),
            ("leaf", "AB" * 32),
            ("leaf", "ab" * 31),
            ("leaf", None),
            ("path", "ab" * 32),
            ("path", ["ab" * 33]),
            ("path", [node_hash(b"", b"").hex()] * 65),
        ],
    )
    def test_names_the_field_that_is_wrong(self, field: str, value: object) -> None:
        given_out = {**prove_inclusion(6, 8, Nodes(KNOWN)).as_dict(), field: value}
        with pytest.raises(ProofMalformed) as refused:
            InclusionProof.from_dict(given_out)
        assert str(refused.value.field).startswith(field)

    @pytest.mark.parametrize("field", ["first", "second", "path"])
    def test_names_the_field_that_lacks(self, field: str) -> None:
        given_out = prove_consistency(6, 8, Nodes(KNOWN)).as_dict()
        del given_out[field]
        with pytest.raises(ProofMalformed) as refused:
            ConsistencyProof.from_dict(given_out)
        assert refused.value.field == field
