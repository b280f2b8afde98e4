"""The stored tree: written by the sequencer, filled for an older log, and proofs read from it."""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, LiteralString

import psycopg
import pytest

from cartrita.eventstore import LogNotContiguous, Sequencer
from cartrita.eventstore.merkle import STORED_LEVELS, Frontier
from cartrita.eventstore.nodes import StoredTree, fill_nodes
from cartrita.eventstore.proofs import ProofOutOfRange
from tests.databases import Database

TILE = 1 << STORED_LEVELS

INSERT = """
    insert into event (stream_id, version, event_id, type, schema_version, recorded_at, workspace_id, actor,
                       trace_id, data)
    select gen_random_uuid(), 1, gen_random_uuid(), 'log_tests.Happened', 1, now(), gen_random_uuid(),
           'system', '', '{"note":"","number":1}' from generate_series(1, %s)
"""


def write_log(database: Database, *ticks: int) -> None:
    for count in ticks:
        with psycopg.connect(database.url) as writer:
            writer.execute(INSERT, [count])
        asyncio.run(Sequencer().order())


def stored_nodes(database: Database) -> dict[tuple[int, int], bytes]:
    with psycopg.connect(database.url) as reader:
        return {
            (level, index): node
            for level, index, node in reader.execute("select level, index, hash from merkle_node").fetchall()
        }


def leaves(database: Database) -> list[bytes]:
    with psycopg.connect(database.url) as reader:
        return [leaf for (leaf,) in reader.execute("select leaf from log order by position").fetchall()]


def root_of(some: list[bytes]) -> bytes:
    frontier = Frontier()
    frontier.extend(some)
    return frontier.root()


def forget_nodes(database: Database, where: str) -> None:
    with psycopg.connect(database.superuser_url) as superuser:
        superuser.execute("alter table merkle_node disable trigger append_only")
        superuser.execute(f"delete from merkle_node where {where}")


class TestFrontier:
    def test_names_the_nodes_that_become_complete(self) -> None:
        some = [sha256(b"%d" % number).digest() for number in range(TILE * TILE + TILE)]
        frontier = Frontier()
        nodes = {(level, index): node for level, index, node in frontier.extend(some)}
        assert set(nodes) == {(8, index) for index in range(TILE + 1)} | {(16, 0)}
        assert nodes[8, 3] == root_of(some[3 * TILE : 4 * TILE])
        assert nodes[16, 0] == root_of(some[: TILE * TILE])
        assert frontier.root() == root_of(some)


class TestSequencer:
    def test_stores_each_complete_subtree_of_256_leaves(self, database: Database) -> None:
        write_log(database, 250, 20, 500, 5, 255)
        log = leaves(database)
        assert stored_nodes(database) == {
            (8, index): root_of(log[index * TILE : (index + 1) * TILE]) for index in range(1030 // TILE)
        }

    def test_stores_those_of_a_tick_that_needs_several_reads(self, database: Database) -> None:
        write_log(database, 4_500)
        assert len(stored_nodes(database)) == 4_500 // TILE

    def test_goes_on_ordering_where_a_node_stands_already(self, database: Database) -> None:
        with psycopg.connect(database.url) as intruder:
            intruder.execute("insert into merkle_node values (8, 0, sha256('x'))")
        write_log(database, 300)
        assert len(leaves(database)) == 300


class TestStoredTree:
    @pytest.mark.parametrize("without", ["false", "true", "index = 1"])
    def test_proves_with_and_without_stored_nodes(self, database: Database, without: str) -> None:
        write_log(database, 300, 3, 700)
        forget_nodes(database, without)
        log = leaves(database)
        tree = StoredTree()
        for size in (1, 255, 256, 257, 300, 303, 512, 768, 1000, 1003):
            root = root_of(log[:size])
            assert tree.root(size) == root
            for position in {1, 2, 255, 256, 257, size // 2 + 1, size}:
                if position <= size:
                    proof = tree.inclusion(position, size)
                    assert proof.leaf == log[position - 1]
                    assert proof.proves(root)
            for first in {1, 128, 255, 256, 257, 300, size}:
                if first <= size:
                    assert tree.consistency(first, size).proves(root_of(log[:first]), root)

    def test_asks_the_database_twice_for_a_proof(self, database: Database) -> None:
        write_log(database, 1_003)
        asked: list[str] = []

        def execute(statement: LiteralString, parameters: Sequence[Any]) -> psycopg.Cursor[Any]:
            asked.append(statement)
            return reader.execute(statement, parameters)

        with psycopg.connect(database.url) as reader:
            reader.execute("select 1")
            StoredTree(execute).inclusion(600, 1_003)
        assert len(asked) == 2

    def test_refuses_a_size_that_the_log_does_not_have(self, database: Database) -> None:
        write_log(database, 10)
        with pytest.raises(LogNotContiguous, match="Position 11 is not in the log"):
            StoredTree().inclusion(3, 12)

    def test_refuses_a_position_beyond_the_size(self, database: Database) -> None:
        with pytest.raises(ProofOutOfRange, match="Position 13 is not among the 12 positions"):
            StoredTree().inclusion(13, 12)


class TestFillNodes:
    def test_stores_what_lacks_and_nothing_else(self, database: Database) -> None:
        write_log(database, 1_003)
        whole = stored_nodes(database)
        forget_nodes(database, "index in (0, 2)")
        assert fill_nodes(1_003) == 2
        assert stored_nodes(database) == whole
        assert fill_nodes(1_003) == 0

    def test_fills_a_log_that_never_had_nodes_level_by_level(self, database: Database) -> None:
        write_log(database, TILE * TILE + TILE + 5)
        whole = stored_nodes(database)
        assert {level for level, _ in whole} == {8, 16}
        forget_nodes(database, "true")
        log = leaves(database)
        assert StoredTree().inclusion(7, len(log)).proves(root_of(log))
        assert fill_nodes(len(log)) == TILE + 2
        assert stored_nodes(database) == whole
