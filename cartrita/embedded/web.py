"""The web process: daphne with sequencer, orchestrator, ingestion and hub in its loop.

    python -m cartrita.embedded.web --fd N      # an open listening socket

Brings the schema and the starter content up to date first.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cartrita.settings")

logger = logging.getLogger(__name__)


def main() -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cartrita.embedded.web")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--sign-in-links", action="store_true", help="report fresh links to the supervisor")
    options = parser.parse_args()

    from cartrita.embedded.children import follow_supervisor, name_process, report, terminate_self

    gc.disable()  # until everything is loaded: nothing of that is garbage
    name_process("cartrita-web")
    follow_supervisor(terminate_self)
    # The first import of daphne installs its reactor; before everything that might want another one.
    from daphne.server import Server

    from cartrita import asgi

    # isort: split
    from django.conf import settings

    from cartrita.embedded import starter
    from cartrita.embedded.bodies import bound_bodies
    from cartrita.embedded.schema import bring_up_to_date
    from cartrita.errors import CartritaError
    from governance.queries.policies import policy_of_file

    try:
        # A policy file with a mistake is said before anything serves, instead of denying everything later.
        policy_of_file(settings.POLICY_FILE)
        bring_up_to_date()
        starter.provide()
    except CartritaError as error:
        report(error=error.message)
        return 1
    links = starter.sign_in_links() if options.sign_in_links else []
    failures: list[BaseException] = []

    def ready() -> None:
        loop = asyncio.get_event_loop()
        task = loop.create_task(_start(), name="start")
        task.add_done_callback(started)

    async def _start() -> None:
        await asgi.start()
        asgi.settle_memory()
        gc.enable()
        report(links=links)

    def started(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("The services did not start.", exc_info=error)
            failures.append(error)
            _stop_reactor()

    bound_bodies()
    # `fd` wants a socket that daphne adopts; signals are ours, because sockets and services end in order.
    server = Server(
        asgi.application,
        endpoints=[f"fd:fileno={options.fd}"],
        signal_handlers=False,
        ready_callable=ready,
        server_name="",
        http_timeout=None,
        websocket_timeout=-1,
        verbosity=0,
    )
    _stop_on_signals()
    server.run()
    return 1 if failures else 0


def _stop_on_signals() -> None:
    from twisted.internet import reactor

    stopping: list[asyncio.Task[None]] = []

    def stop(number: int) -> None:
        if stopping:
            return
        logger.info("Stopping on signal %d.", number)
        stopping.append(loop.create_task(_stop(), name="stop"))

    loop = reactor._asyncioEventloop  # noqa: SLF001 - it has no public name
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)


async def _stop() -> None:
    from cartrita import asgi

    try:
        await asgi.stop()
    except Exception:
        logger.exception("The services did not stop in order.")
    finally:
        _stop_reactor()


def _stop_reactor() -> None:
    from twisted.internet import reactor

    reactor.stop()  # type: ignore[misc] # a module that becomes an object when daphne installs it


if __name__ == "__main__":
    sys.exit(main())
