"""What runs on this machine, as /proc says."""

import asyncio
import os
from pathlib import Path


def children(*, running: str, parent: int | None = None) -> list[int]:
    """Return the children of a process (by default this one) whose command line has those words."""
    return [
        int(process.name)
        for process in _processes()
        if _stat(process)[3:4] == [str(parent or os.getpid())] and running.encode() in _command(process)
    ]


def session(leader: int) -> list[int]:
    """Return what runs in the session of that process, dead ones that nobody waited for left out."""
    stats = ((int(process.name), _stat(process)) for process in _processes())
    return [pid for pid, stat in stats if stat[5:6] == [str(leader)] and stat[2] != "Z"]


async def emptied(leader: int) -> bool:
    """Wait until nothing runs in that session; say if that came to be."""
    for _ in range(500):
        if not session(leader):
            return True
        await asyncio.sleep(0.01)
    return False


def _processes() -> list[Path]:
    return [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(process: Path) -> list[str]:
    try:
        text = (process / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    # The name in parentheses may hold blanks.
    before, _, after = text.rpartition(")")
    return [before.split(" ", 1)[0], "", *after.split()]


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ")
    except (FileNotFoundError, ProcessLookupError):
        return b""
