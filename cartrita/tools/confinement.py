"""What a limited process does for itself: take requests, answer them, give up rights that it does not need.

It runs in processes that LimitedProcess starts (processes.py) and loads nothing of Django. On Linux a process
can give up the network (seccomp) and files (Landlock) for good without being root; where a kernel does not
offer one of the two, the walls that remain are the interpreter or parser inside and the resource limits.
"""

import contextlib
import ctypes
import json
import os
import platform
import resource
import struct
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

LENGTH = struct.Struct(">Q")


def requests(source: BinaryIO) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield each request's header and content until the input ends."""
    while len(prefix := source.read(LENGTH.size)) == LENGTH.size:
        header = json.loads(source.read(LENGTH.unpack(prefix)[0]))
        yield header, source.read(header["size"])


def answer(target: BinaryIO, value: Any) -> None:
    """Send JSON back to whoever asked."""
    content = json.dumps(value).encode()
    target.write(LENGTH.pack(len(content)) + content)
    target.flush()


def limit(kind: int, amount: int) -> None:
    """Set a soft resource limit (RLIMIT_…), where the system knows it."""
    _soft, hard = resource.getrlimit(kind)
    wanted = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    # macOS knows no limit of address space; the parent's clock and the size limits remain.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (wanted, hard))


def limit_process(*, memory_bytes: int) -> None:
    """Bound the address space; let the process write no file and leave no core dump."""
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, 0)
    limit(resource.RLIMIT_AS, memory_bytes)


def limit_processor(seconds: int) -> None:
    """Allow that many seconds of processor time from now on, one more than that at most."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds + 1)


class PeakMemory:
    """Tells the most resident memory that this process, or one that it ran and waited for, ever had.

    Make it before files are given up.
    """

    def __init__(self) -> None:
        # Not getrusage for itself: Linux lets a process inherit the peak of the one that started it.
        self._status = Path("/proc/self/status").open("rb") if sys.platform == "linux" else None  # noqa: SIM115 # open while it lives

    def bytes(self) -> int:
        """Return the peak so far."""
        unit = 1 if sys.platform == "darwin" else 1024
        return max(self._own(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit)

    def _own(self) -> int:
        if self._status is None:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._status.seek(0)
        (kilobytes,) = (int(line.split()[1]) for line in self._status if line.startswith(b"VmHWM:"))
        return kilobytes * 1024


def give_up_network() -> bool:
    """Let this thread and what it starts open no socket and look into no process, ever; say if it holds.

    A seccomp filter (seccomp(2), SECCOMP_SET_MODE_FILTER) answers these system calls with EPERM.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _ARCHITECTURES:
        return False
    place = list(_ARCHITECTURES).index(machine)
    program = _filter(_ARCHITECTURES[machine], [numbers[place] for numbers in _REFUSED_CALLS.values()])
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        and libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0
    )


def give_up_files(*, readable: Iterable[Path] = (), executable: Iterable[Path] = ()) -> bool:
    """Let this thread and what it starts reach only these files and folders; say if the kernel holds it.

    Uses Landlock (landlock(7)), of which newer versions also refuse TCP and signals to processes outside.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if version < 1:
        return False
    handled = (1 << next(bits for since, bits in _FILE_RIGHTS if version >= since)) - 1
    fields = [handled, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0]
    # Older kernels take only the fields that they know.
    attributes = struct.pack("=3Q", *fields)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return False
    try:
        for path in readable:
            _allow(libc, ruleset, path, _READ_FILE)
        for path in executable:
            _allow(libc, ruleset, path, _READ_FILE | _EXECUTE)
        return bool(
            libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            and libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
        )
    finally:
        os.close(ruleset)


def loaded_libraries() -> set[Path]:
    """Return the shared libraries that this process has loaded, the dynamic loader among them."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    named = (line.split(maxsplit=5)[5] for line in lines if line.count("/"))
    return {Path(name) for name in named if ".so" in Path(name).name}


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # what is not there need not be allowed
    try:
        rule = struct.pack("=Qi", rights, opened)
        if libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0) != 0:
            raise OSError(ctypes.get_errno(), "landlock_add_rule", str(path))
    finally:
        os.close(opened)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _filter(architecture: int, refused: Collection[int]) -> _Program:
    """Return a classic BPF program over struct seccomp_data (number at 0, architecture at 4).

    Jumps count the instructions that they leave out; those of refused calls lead to the last one.
    """
    program = [
        (_LOAD, 0, 0, 4),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _REFUSE),  # calls of another architecture (32 bit) have other numbers
        (_LOAD, 0, 0, 0),
        (_JUMP_GREATER_EQUAL, len(refused) + 1, 0, _X32_CALLS),
        *((_JUMP_EQUAL, len(refused) - i, 0, number) for i, number in enumerate(refused)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return _Program(len(program), b"".join(struct.pack("=HBBI", *one) for one in program))


_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | 1  # SECCOMP_RET_ERRNO, EPERM
_X32_CALLS = 0x40000000

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_…
# The numbers of the calls on x86_64 and on aarch64.
_REFUSED_CALLS = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "io_uring_setup": (425, 425),  # a ring opens sockets without these calls
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
}

_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1
_EXECUTE = 1 << 0
_READ_FILE = 1 << 2
# How many rights to files a version of Landlock knows, newest first.
_FILE_RIGHTS = ((5, 16), (3, 15), (2, 14), (1, 13))
