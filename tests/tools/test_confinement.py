import ctypes
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TRIES = """
import contextlib, json, os, socket, subprocess, sys
from pathlib import Path
from cartrita.tools.confinement import give_up_files, give_up_network, loaded_libraries
readable, secret, written, port, parent = sys.argv[1:]
said = {}
kept = [Path(readable), *{one.parent for one in loaded_libraries()}]
held = {"files": FILES and give_up_files(readable=kept), "network": NETWORK and give_up_network()}

def attempt(name):
    @contextlib.contextmanager
    def trying():
        try:
            yield
            said[name] = "done"
        except OSError as error:
            said[name] = type(error).__name__
    return trying()

with attempt("read allowed"):
    Path(readable).read_text()
with attempt("read"):
    Path(secret).read_text()
with attempt("list"):
    os.listdir("/")
with attempt("write"):
    Path(written).write_text("x")
with attempt("make folder"):
    os.mkdir(written + ".d")
with attempt("remove"):
    os.unlink(secret)
with attempt("run"):
    subprocess.run(["/bin/true"])
with attempt("connect"):
    with socket.create_connection(("127.0.0.1", int(port))):
        pass
with attempt("unix socket"):
    socket.socket(socket.AF_UNIX).close()
with attempt("signal"):
    os.kill(int(parent), 0)
with attempt("pipe"):
    os.pipe()
print(json.dumps({"said": said, **held}))
"""


def landlock() -> int:
    return int(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))


def tried(tmp_path: Path, *, files: bool, network: bool) -> dict[str, Any]:
    readable, secret, written = tmp_path / "readable", tmp_path / "secret", tmp_path / "written"
    readable.write_text("r")
    secret.write_text("s")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        script = TRIES.replace("FILES", str(files)).replace("NETWORK", str(network))
        ended = subprocess.run(
            [sys.executable, "-c", script, readable, secret, written, port, str(os.getpid())],
            capture_output=True,
            check=True,
            text=True,
        )
    result: dict[str, Any] = json.loads(ended.stdout)
    assert secret.exists() is (result["said"]["remove"] != "done")
    assert written.exists() is (result["said"]["write"] == "done")
    return result


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process give up rights like this")
class TestGiveUpFiles:
    @pytest.mark.skipif(sys.platform == "linux" and landlock() < 1, reason="the kernel has no Landlock")
    def test_leaves_only_what_is_named(self, tmp_path: Path) -> None:
        result = tried(tmp_path, files=True, network=False)
        assert result["files"] is True
        said = result["said"]
        assert (said["read allowed"], said["pipe"]) == ("done", "done")
        refused = {name for name, outcome in said.items() if outcome == "PermissionError"}
        assert {"read", "list", "write", "make folder", "remove", "run"} <= refused
        if landlock() >= 6:
            assert {"connect", "signal"} <= refused


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in {"x86_64", "aarch64"},
    reason="the filter knows the system calls of Linux on these",
)
class TestGiveUpNetwork:
    def test_leaves_no_socket(self, tmp_path: Path) -> None:
        result = tried(tmp_path, files=False, network=True)
        assert result["network"] is True
        refused = {name for name, outcome in result["said"].items() if outcome == "PermissionError"}
        assert refused == {"connect", "unix socket"}
