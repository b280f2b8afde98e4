"""A process that has loaded the program and forks itself on request: a start costs a fork, not an import.

What is forked runs `manage.py run_orchestrator` from its beginning, with a pid, connections and threads of
its own. Reads lines of JSON {log} from stdin, and answers each with the pid; what the child says goes there.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import django
from django.core.management import call_command


def main() -> None:
    django.setup()
    # What takes long to import.
    from cartrita.orchestrator.management.commands import run_orchestrator
    from retrieval import embedding

    del run_orchestrator, embedding
    # Nobody waits for the children: the kernel shall forget them as they end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _say("ready")
    for line in sys.stdin:
        log = Path(json.loads(line)["log"])
        pid = os.fork()
        if pid == 0:
            _work(log)
        _say(str(pid))


def _say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def _work(log: Path) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    os.dup2(written, 1)
    os.dup2(written, 2)
    code = 1
    try:
        call_command("run_orchestrator")
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
