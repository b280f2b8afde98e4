"""What no module of the product does: read from everywhere, run what a text says, take objects from bytes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("cartrita", "governance", "retrieval", "sessions_app", "tasks_app")
MODULES = sorted(path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py"))

# Who may open connections, and where to: the provider and the database that the environment names, this
# machine's own ports. No tool, parser or page fetches an address that a person, document or model wrote.
CONNECTING = {
    "cartrita/client.py",  # the client of other programs, no part of the server
    "cartrita/embedded/checks/host.py",  # is a port of this machine free?
    "cartrita/embedded/checks/running.py",  # OPENAI_BASE_URL, asked by `manage.py doctor`
    "cartrita/embedded/keeper.py",  # a Unix socket
    "cartrita/embedded/postgres.py",  # a Unix socket
    "cartrita/embedded/supervisor.py",  # the port to serve on
    "cartrita/llm/local_server.py",  # the local model, on loopback
    "cartrita/llm/providers/local.py",  # the local model, on loopback
    "cartrita/streaming/client.py",  # the same, of sockets
    "cartrita/llm/providers/openai.py",  # OpenAI, or OPENAI_BASE_URL
}
NETWORK = {
    "aiohttp", "ftplib", "http.client", "httpx", "openai", "requests", "smtplib", "socket", "telnetlib",
    "urllib.request", "urllib3", "websockets", "xmlrpc",
}  # fmt: skip
# These make objects, or run code, of the bytes that they read.
OBJECTS = {"cPickle", "dill", "jsonpickle", "marshal", "pickle", "shelve"}
RUNS = {"eval", "exec", "compile", "__import__"}
UNSAFE = {"mark_safe", "os.popen", "os.system", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


def called(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {str(path.relative_to(CHECKOUT)): ast.parse(path.read_text()) for path in MODULES}


class TestProduct:
    def test_connects_from_named_modules_alone(self, trees: dict[str, ast.Module]) -> None:
        found = {
            name
            for name, tree in trees.items()
            if any(one in NETWORK or one.partition(".")[0] in NETWORK for one in imported(tree))
        }
        assert found <= CONNECTING

    def test_takes_no_objects_from_bytes(self, trees: dict[str, ast.Module]) -> None:
        found = {
            (name, one)
            for name, tree in trees.items()
            for one in imported(tree)
            if one.partition(".")[0] in OBJECTS
        }
        assert found == set()

    def test_runs_no_code_that_a_text_holds(self, trees: dict[str, ast.Module]) -> None:
        found = set()
        for name, tree in trees.items():
            for function, call in called(tree):
                shell = any(
                    each.arg == "shell" and ast.unparse(each.value) != "False" for each in call.keywords
                )
                if function in RUNS or function in UNSAFE or shell:
                    found.add((name, function))
        assert found == set()
