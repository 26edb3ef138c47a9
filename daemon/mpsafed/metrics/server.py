# SPDX-License-Identifier: Apache-2.0
"""Serves a registry over HTTP in a thread of its own, to one scraper at a time.

Whatever a scraper does, it costs the daemon one thread, one descriptor, and a bounded share of one
core: no connection lasts longer than DEADLINE_S, and there are at most 1 / PAUSE_S of them a second.
"""

import contextlib
import errno
import logging
import os
import socket
import threading
from pathlib import Path
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import (
    CollectorRegistry,
    make_wsgi_app,  # pyright: ignore[reportUnknownVariableType] -- its Callable is bare
)
from typing_extensions import override

__all__ = ["MetricsServer"]

DEADLINE_S: Final = 5.0
PAUSE_S: Final = 0.05
PORT_MAX: Final = 65535

_log = logging.getLogger(__name__)


class MetricsServer:
    """Serves from its making on. OSError if it cannot be listened there."""

    def __init__(self, listen: str, registry: CollectorRegistry) -> None:
        self._server = _Server(listen)
        app = make_wsgi_app(registry)  # pyright: ignore[reportUnknownVariableType] -- its Callable is bare
        self._server.set_app(app)  # pyright: ignore[reportUnknownArgumentType] -- its Callable is bare
        self._thread = threading.Thread(target=self._server.serve, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hangs up on whoever is being served, and takes the socket away."""
        self._server.stop()
        self._thread.join()
        self._server.server_close()
        if self._server.path is not None:
            self._server.path.unlink(missing_ok=True)


class _Handler(WSGIRequestHandler):
    @override
    def log_message(self, format: str, *args: object) -> None:
        _log.debug(format, *args)


class _Server(WSGIServer):
    request_queue_size = 8

    def __init__(self, listen: str) -> None:
        self.path = Path(listen) if listen.startswith("/") else None
        self._stopped = threading.Event()
        self._served: socket.socket | None = None
        host, _, port = listen.rpartition(":")
        if self.path is not None:
            self.address_family = socket.AF_UNIX
            _make_room(self.path)
            super().__init__(listen, _Handler)  # type: ignore[arg-type] # a path is AF_UNIX's address
        elif int(port) > PORT_MAX:
            raise OSError(errno.EINVAL, f"expected a port up to {PORT_MAX}, got {port}")
        else:
            self.address_family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
            super().__init__((host.strip("[]"), int(port)), _Handler)

    @override
    def server_bind(self) -> None:
        """Without asking the resolver for a name, as WSGIServer does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        if self.path is not None:
            self.path.chmod(0o666)
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()

    def serve(self) -> None:
        """Until `stop`."""
        while not self._stopped.is_set():
            self.handle_request()

    def stop(self) -> None:
        """Makes `serve` return; another thread may call it."""
        self._stopped.set()
        _hang_up(self.socket)
        if (served := self._served) is not None:
            _hang_up(served)

    @override
    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            request, _ = self.socket.accept()
        except OSError:  # no descriptor is left, or we are to stop
            self._stopped.wait(PAUSE_S)
            raise
        return request, ("local", 0)

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        self._served = request
        if self._stopped.is_set():  # `stop` looked before there was anybody to hang up on
            _hang_up(request)
        deadline = threading.Timer(DEADLINE_S, _hang_up, [request])
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request(request, client_address)
        finally:
            deadline.cancel()
            self._served = None
            self._stopped.wait(PAUSE_S)

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a scraper was not answered", exc_info=True)


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _make_room(path: Path) -> None:
    """Takes away the socket of a daemon that died. OSError if somebody listens there."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if path.is_socket():
                path.unlink()
        else:
            raise OSError(errno.EADDRINUSE, "another program listens there", os.fspath(path))
