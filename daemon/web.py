"""The HTTP server: sockets, threads and limits. What it answers is in `daemon.api`.

One connection carries one request (HTTP/1.0), so nothing idles between requests and closing is quick.
"""

import contextlib
import errno
import io
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from types import TracebackType
from typing import Any, Self

import structlog
from prometheus_client import CollectorRegistry

from daemon.api import Answer, Answers, CommandRefused, Health, Refusal, Site, as_json, is_loopback
from daemon.errors import RelearndError

__all__ = ["CommandRefused", "Health", "WebError", "WebServer", "read_token"]

#: Commands are a few words; nobody needs more, and nobody gets to fill our memory.
MAX_BODY_BYTES = 64 * 1024

#: A client gets this long to send a request, and again to take the answer.
CLIENT_SECONDS = 10.0

#: Connections at once. Prometheus, probes and a few people need a handful.
MAX_CONNECTIONS = 32

#: How often the accepting thread looks whether it should stop: the longest that `close` waits for it.
_POLL_SECONDS = 0.1

#: Of a body that is refused unread, how much is taken all the same: closing on unread bytes resets the connection,
#: and the client might never see why.
_DRAIN_BYTES = 1024 * 1024

_LENGTH = re.compile(r"[0-9]{1,18}")

log = structlog.get_logger()


class WebError(RelearndError):
    """The server cannot listen, or its token cannot be read; the message says why and what to do."""


def read_token(environment: Mapping[str, str]) -> str | None:
    """The bearer token: RELEARND_TOKEN, or the content of the file that RELEARND_TOKEN_FILE names.

    Raises:
        WebError: both are set, the file cannot be read, or the token is empty.
    """
    token, file = environment.get("RELEARND_TOKEN"), environment.get("RELEARND_TOKEN_FILE")
    if token is not None and file is not None:
        raise WebError("RELEARND_TOKEN and RELEARND_TOKEN_FILE are both set; unset one")
    if file is not None:
        try:
            token = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise WebError(f"RELEARND_TOKEN_FILE: {file} cannot be read: {error}") from error
    if token is None:
        return None
    if not token.strip():
        raise WebError(f"{'RELEARND_TOKEN' if file is None else file} is empty; set a token or unset the variable")
    return token.strip()


class WebServer:
    """Listens from construction on; answers from `start` (or `with`) to `close`. `port` is the real one.

    `health`, `ready`, `status` and `command` are called from any thread, several at once (see `daemon.api.Answers`).

    Raises:
        WebError: the address cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        registry: CollectorRegistry,
        health: Callable[[], Health],
        ready: Callable[[], Health],
        status: Callable[[], Mapping[str, Any]],
        command: Callable[[str, dict[str, Any]], Mapping[str, Any]],
        token: str | None = None,
    ) -> None:
        answers = Answers(health=health, ready=ready, status=status, command=command)
        self._server = _listen(host, port, Site(registry, answers, token))
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="web", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening, let requests that were read whole be answered, and cut off the rest."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _listen(host: str, port: int, site: Site) -> "_Server":
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return _Server(family, address, site)
    except OSError as error:
        raise WebError(f"cannot listen on {host}:{port}: {_why(error)}") from error


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is taken (by another relearnd?); set http.port to another, or to 0 for any free one"
    if error.errno == errno.EACCES:
        return "not allowed; ports below 1024 belong to root, set http.port to a higher one"
    return f"{error.strerror}; set http.host to an address of this machine"


class _Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    request_queue_size = MAX_CONNECTIONS
    # So that closing waits for requests being answered, and none is cut off in the middle of a command.
    daemon_threads = False

    def __init__(self, family: socket.AddressFamily, address: Any, site: Site) -> None:
        self.address_family = family
        self.site = site
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)
        self.loopback = is_loopback(str(self.server_address[0]))

    def verify_request(self, request: Any, client_address: Any) -> bool:
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                log.warning("connection refused", client=client_address[0], because=f"{MAX_CONNECTIONS} are open")
                return False
            self._open.add(request)
            return True

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        with self._lock:
            for connection in self._open:
                # Ends a wait for the rest of a request: `_Arriving` takes it for an aborted one.
                with contextlib.suppress(OSError):  # the client has gone already
                    connection.shutdown(socket.SHUT_RD)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  (socketserver's signature)
        log.debug("connection lost", client=client_address[0], because=str(sys.exc_info()[1]))


class _Arriving(io.RawIOBase):
    """What a client sends, within `CLIENT_SECONDS` in all. One that stops midway is an error, not a shorter request."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + CLIENT_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the client took too long to send its request")
        self._connection.settimeout(left)
        count = self._connection.recv_into(buffer)
        if not count:
            raise ConnectionAbortedError("the client stopped in the middle of a request")
        return count


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "relearnd"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Arriving(self.connection))

    def _respond(self) -> None:
        try:
            body = self._body()
        except Refusal as refusal:
            self._send(refusal.answer)
            self._drain()
        else:
            self._send(self._answer(body))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _respond  # noqa: N815

    def _answer(self, body: bytes) -> Answer:
        try:
            return self.server.site.answer(self.command, self.path, self.headers, body, loopback=self.server.loopback)
        except Refusal as refusal:
            return refusal.answer
        except Exception:
            log.exception("request failed", method=self.command, path=self.path)
            return as_json({"error": "internal error; the log has it"}, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _body(self) -> bytes:
        if "Transfer-Encoding" in self.headers:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "send the body with a Content-Length")
        length = self.headers.get("Content-Length", "0")
        if not _LENGTH.fullmatch(length):
            raise Refusal(HTTPStatus.BAD_REQUEST, "Content-Length is not a number")
        if int(length) > MAX_BODY_BYTES:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body may have {MAX_BODY_BYTES} bytes")
        return self.rfile.read(int(length))

    def _send(self, answer: Answer) -> None:
        self.connection.settimeout(CLIENT_SECONDS)
        self.send_response(answer.status)
        headers = {
            "Content-Type": answer.content_type,
            "Content-Length": str(len(answer.body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **answer.headers,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _drain(self) -> None:
        with contextlib.suppress(OSError):  # the client has its answer; how it goes is its own affair
            self.connection.shutdown(socket.SHUT_WR)
            self.rfile.read(_DRAIN_BYTES)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Of a request that http.server could not read: the same JSON as any other error."""
        self._send(as_json({"error": message or HTTPStatus(code).phrase}, HTTPStatus(code)))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the standard library's name)
        log.debug("http", client=self.client_address[0], line=format % args)
