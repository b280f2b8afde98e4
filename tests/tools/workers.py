"""A limited process that behaves as its first argument says; run by the tests as `python -m`."""

import os
import signal
import sys
import time

from cartrita.tools.confinement import LENGTH, answer, limit_process, limit_processor, requests


def main() -> None:
    behaviour = sys.argv[1]
    if behaviour == "deaf":
        time.sleep(60)
    limit_process(memory_bytes=1 << 30)
    for header, content in requests(sys.stdin.buffer):
        match behaviour:
            case "echo":
                answer(sys.stdout.buffer, {"header": header, "bytes": len(content)})
            case "environment":
                answer(sys.stdout.buffer, dict(os.environ))
            case "hang":
                time.sleep(60)
            case "exit":
                sys.exit(3)
            case "spin":
                limit_processor(0)
                while True:
                    pass
            case "boast":
                sys.stdout.buffer.write(LENGTH.pack(1 << 60) + b"x" * 100)
                sys.stdout.buffer.flush()
                time.sleep(60)
            case "closed":
                os.close(1)
                time.sleep(60)
            case "family":
                child = os.fork()
                if child == 0:
                    time.sleep(60)
                answer(sys.stdout.buffer, child)
            case "terminated":
                os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
