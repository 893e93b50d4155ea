"""Running the service: a socket of our own, detectors loaded while it listens, a quiet end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from anyio import to_thread

from boxatlas.errors import InputError
from boxatlas.parts.base import Detector
from boxatlas.serve.app import Limits, Service, make_app
from boxatlas.serve.batching import Worker

_LOCAL = ("127.0.0.1", "localhost", "::1")
_DRAINED = 30  # seconds that requests in flight have at the end


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises InputError where the address is taken or is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot be listened on: {reason}",
            field="--port" if isinstance(error, OSError) and error.errno == 98 else "--host",
            value=f"{host}:{port}",
            hint="--port 0 takes a free one",
        ) from None


class _Server(uvicorn.Server):
    """Ends by SIGTERM and Ctrl-C with what is in flight answered, and as a success."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        def end(_: int, __: FrameType | None) -> None:
            self.force_exit, self.should_exit = self.should_exit, True  # a second one: at once

        old = {kind: signal.signal(kind, end) for kind in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for kind, handler in old.items():
                signal.signal(kind, handler)


def run(
    names: list[str],
    load: Callable[[str], Detector],
    listener: socket.socket,
    *,
    limits: Limits,
    token: str | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    """Serve until told to end. load: makes the detector of a name; ready: called when all are.

    Raises what `load` raises, after the server has ended.
    """
    host = listener.getsockname()[0]
    failed: list[Exception] = []

    async def serve() -> None:
        service = Service(names, limits, token, local=host in _LOCAL)

        async def fill() -> None:
            try:
                for name in names:
                    detector = await to_thread.run_sync(load, name)
                    service.workers[name] = Worker(name, detector, limits.batch, limits.waiting)
                if ready is not None:
                    ready()
            except Exception as error:  # a file that cannot be read: all ends, and says so
                failed.append(error)
                server.should_exit = True

        app = make_app(service, fill)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_DRAINED,
        )
        server = _Server(config)
        await server.serve(sockets=[listener])

    asyncio.run(serve())
    if failed:
        raise failed[0]
