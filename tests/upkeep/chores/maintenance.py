"""Jobs of tests. Each notes its runs, a line each, in the file that the environment names."""

import json
import os
import time
from pathlib import Path

from cartrita.upkeep.jobs import job

NOTES = "TEST_CHORES"


def note(what: str) -> None:
    """Write one line; lines of several processes do not mix, and a kill leaves no half line."""
    line = json.dumps({"what": what, "pid": os.getpid(), "at": time.time()})
    descriptor = os.open(os.environ[NOTES], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


@job("tests.sweep")
def sweep() -> int:
    """Note a run; return how many."""
    note("sweep")
    return 1


@job("tests.fail")
def fail() -> int:
    """Fail."""
    note("fail")
    raise RuntimeError("the broom is broken")


@job("tests.scrub")
def scrub() -> int:
    """Take as long as there is a file beside the notes that says so."""
    note("scrub begins")
    while Path(os.environ[NOTES]).with_suffix(".dirty").exists():
        time.sleep(0.01)
    note("scrub ends")
    return 1
