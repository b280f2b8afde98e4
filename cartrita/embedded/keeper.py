"""Keep one PostgreSQL alive for as long as somebody uses it. Runs as a program of its own, standard library
only.

Whoever uses the server holds a shared lock on `users.lock`. The kernel releases it however that user ends,
so that the exclusive lock, which the keeper waits for, means: nobody is left. Then it stops PostgreSQL and
exits. No pid list can go stale, and a killed user leaves nothing behind.

A keeper that lives says its name to whoever connects to `SOCKET`, and its server has the same name in the
setting `NAME_SETTING`. A lock alone would not tell that it lives: a process that was just killed holds its
locks until the kernel gets to end it, and so long its server, which ends with it, serves on.

    python keeper.py keep '{"data": …}'      # see `Orders`
    python keeper.py launch IDENTITY PROGRAM ARGUMENT…
"""

import contextlib
import ctypes
import fcntl
import json
import os
import pwd
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
EARLY_ATTEMPTS = 4
LATER_ATTEMPTS = 30
STOP_SECONDS = 30
# In the folder of the server's own sockets.
SOCKET = "keeper"
NAME_SETTING = "cartrita.keeper"


def launch(identity: str, command: list[str]) -> NoReturn:
    """Become `identity`, ask to be stopped when the parent dies (Linux), and run the command.

    PostgreSQL refuses to run as root. "namespace" gives root another name inside a user namespace: to the
    kernel the process is still root's, so folders that only root can enter and files that root owns just
    work. "uid:<n>:<gid>" really changes the user. "self" changes nothing.
    """
    if identity == "namespace":
        # The inner name must exist in passwd (initdb looks it up) and must not be the overflow id.
        inner = next(entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid not in {0, 65534})
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "user namespaces are not available")
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{inner} 0 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{inner} 0 1", encoding="ascii")
    elif identity.startswith("uid:"):
        uid, gid = (int(part) for part in identity.split(":")[1:])
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - no shell is what is wanted


def keep(orders: dict[str, str | list[str]]) -> None:
    """Start PostgreSQL, restart it when it dies, stop it when nobody uses it any more.

    Returns to the caller's shell as soon as the keeper's own lock is held; the rest happens in a daemon.
    Exits with 1 when PostgreSQL does not stay up.
    """
    state = Path(str(orders["state"]))
    own_lock = os.open(state / "keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(own_lock, fcntl.LOCK_EX)  # the former keeper may still be stopping its server
    listener = _listen(Path(str(orders["sockets"])) / SOCKET)
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    # The lock is released with the last copy of its descriptor: PostgreSQL must not hold one, hence
    # O_CLOEXEC.
    name = secrets.token_hex(8)
    server = _Server(orders, name)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=_wait_until_unused, args=(state / "users.lock", server), daemon=True).start()
    threading.Thread(target=_say_name, args=(listener, name), daemon=True).start()
    code = server.run()
    Path(listener.getsockname()).unlink(missing_ok=True)
    # Before the users' lock, which goes with the process: whoever gets that one must find this one free.
    os.close(own_lock)
    sys.exit(code)


def _listen(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    return listener


def _say_name(listener: socket.socket, name: str) -> None:
    while True:
        client, _ = listener.accept()
        with client, contextlib.suppress(OSError):
            client.sendall(name.encode("ascii"))


def _wait_until_unused(path: Path, server: "_Server") -> None:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Held until this process exits: whoever comes now waits until this server is gone, then starts a new one.
    server.stop()


class _Server:
    def __init__(self, orders: dict[str, str | list[str]], name: str) -> None:
        self.data = Path(str(orders["data"]))
        self.log = Path(str(orders["log"]))
        self.command = [
            sys.executable, "-I", "-S", __file__, "launch", str(orders["identity"]), *orders["command"],
            "-c", f"{NAME_SETTING}={name}",
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.stopping = threading.Event()

    def run(self) -> int:
        failures, stayed_up, pause = 0, False, 0.1
        while not self.stopping.is_set():
            end_leftover(self.data)
            started = time.monotonic()
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(  # noqa: S603 - the command is ours
                    self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            if self.stopping.is_set():
                self.stop()
            code = self.process.wait()
            if self.stopping.is_set():
                return 0
            if time.monotonic() - started > 3:
                failures, stayed_up, pause = 0, True, 0.1
            failures += 1
            self._note(f"postgres ended with {code}")
            if failures >= (LATER_ATTEMPTS if stayed_up else EARLY_ATTEMPTS):
                return 1
            self.stopping.wait(pause)
            pause = min(pause * 2, 2.0)
        return 0

    def stop(self) -> None:
        """Ask for a fast shutdown (open transactions roll back, a checkpoint is written); insist after 30
        s."""
        self.stopping.set()
        process = self.process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)
        insist = threading.Timer(STOP_SECONDS, self._insist, args=(process.pid,))
        insist.daemon = True
        insist.start()

    def _insist(self, pid: int) -> None:
        self._note("postgres did not stop in time: immediate shutdown")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)

    def _note(self, text: str) -> None:
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"keeper: {text}\n")


def end_leftover(data: Path) -> None:
    """Stop a server that outlived its keeper, and remove its pid file when it is stale.

    The pid in the file is believed only when that process really is a postgres in this data folder: pids are
    reused, and a foreign process must never be stopped.
    """
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text(encoding="utf-8").split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    deadline = time.monotonic() + STOP_SECONDS
    asked = False
    while _is_postgres_of(data, pid):
        with contextlib.suppress(ProcessLookupError):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGQUIT)
                deadline = float("inf")
            elif not asked:
                os.kill(pid, signal.SIGINT)
                asked = True
        time.sleep(0.05)
    with contextlib.suppress(FileNotFoundError):
        pid_file.unlink()


def _is_postgres_of(data: Path, pid: int) -> bool:
    process = Path(f"/proc/{pid}")
    if Path("/proc/self").exists():
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return False
        return b"postgres" in arguments[0] and os.fsencode(data) in arguments
    listed = subprocess.run(  # noqa: S603
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False
    )
    return b"postgres" in listed.stdout and os.fsencode(data) in listed.stdout


if __name__ == "__main__":
    if sys.argv[1] == "launch":
        launch(sys.argv[2], sys.argv[3:])
    else:
        keep(json.loads(sys.argv[2]))
