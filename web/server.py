"""Binds, says where, and serves until it is interrupted."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn

from bsst.errors import OutputError
from bsst.web.app import Settings, create_app
from bsst.web.runner import CHILD
from bsst.web.store import JobStore

__all__ = ["serve"]

GOODBYE_SECONDS = 2
"""Open streams of events get so long to end."""
CONNECTIONS = 256


def serve(
    folder: Path,
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    on_start: Callable[[int], None],
    command: Sequence[str] = CHILD,
) -> int:
    """Serve the jobs of a folder.

    Args:
        folder: where jobs live.
        settings: of the application.
        host: address to bind to.
        port: 0 for a free one.
        on_start: told the port, once connections are accepted.
        command: see `Runner`.

    Returns:
        Jobs that wait for the next start.

    Raises:
        OutputError: the port is taken, or another server works in the folder.
    """
    with JobStore(folder) as store, _listening(host, port) as listener:
        config = uvicorn.Config(
            create_app(store, settings, command=command),
            log_level="warning",
            http="h11",  # refuses what it does not understand; httptools would be taken where it is installed
            access_log=False,  # addresses may carry the token
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=GOODBYE_SECONDS,
            lifespan="on",
        )
        on_start(listener.getsockname()[1])
        with suppress(KeyboardInterrupt):  # raised again by uvicorn after an orderly end
            uvicorn.Server(config).run(sockets=[listener])
        return sum(job.state in ("queued", "running") for job in store.jobs.values())


def _listening(host: str, port: int) -> socket.socket:
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows lets others share an address otherwise
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except (OSError, OverflowError) as error:
        if listener is not None:
            listener.close()
        raise OutputError(
            f"expected to listen on {host}, port {port}, could not: {error}; choose another --port"
        ) from error
    return listener
