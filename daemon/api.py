"""What the daemon answers over HTTP: metrics, health, status, and the three commands that steer it.

There is no authentication on loopback, where the danger is a web page that the user's browser carries there: a command
must say `Content-Type: application/json`, which a page of another site cannot send unasked, and must name this
server in `Host` (DNS rebinding) and in `Origin`. On any other address, commands need a bearer token.
"""

import hmac
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from typing import Any, NamedTuple

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from pydantic_core import from_json, to_json

_PROMOTE = re.compile(r"/models/([A-Za-z0-9][A-Za-z0-9._-]{0,127})/promote")

_PORT = re.compile(r":\d+$")

log = structlog.get_logger()


class CommandRefused(Exception):  # noqa: N818  (a refusal is an answer, not a fault)
    """A command that cannot be carried out now or ever (an unknown version, a run already going); says which."""


@dataclass(frozen=True)
class Health:
    """Whether all is well and, when it is not, what is wrong: one sentence each."""

    ok: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answers:
    """What the server asks the daemon. Called from any thread, several at once.

    `command` takes `"learn"`, `"promote"` (with `version`) or `"rollback"` and the fields of the request's body, and
    raises `CommandRefused` when it cannot be done.
    """

    health: Callable[[], Health]
    ready: Callable[[], Health]
    status: Callable[[], Mapping[str, Any]]
    command: Callable[[str, dict[str, Any]], Mapping[str, Any]]


class Answer(NamedTuple):
    """A response, before it is bytes on a socket."""

    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}


class Refusal(Exception):  # noqa: N818
    """Ends a request with an error."""

    def __init__(self, status: HTTPStatus, error: str, **headers: str) -> None:
        super().__init__(error)
        self.answer = as_json({"error": error}, status, headers)


def as_json(
    value: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Answer:
    body = to_json(value, inf_nan_mode="null", fallback=str)  # NaN is no JSON, and jq would choke on it
    return Answer(status, body + b"\n", headers=headers or {})


class Site:
    """What is where: turns a request into its answer. Knows nothing of sockets."""

    def __init__(self, registry: CollectorRegistry, answers: Answers, token: str | None) -> None:
        self._registry = registry
        self._answers = answers
        self._token = token

    def answer(self, method: str, target: str, headers: Message, body: bytes, *, loopback: bool) -> Answer:
        path = target.partition("?")[0]
        promote = _PROMOTE.fullmatch(path)
        if promote or path in {"/learn", "/rollback"}:
            _allow(method, "POST")
            self._authorise(headers, loopback=loopback)
            arguments = _arguments(headers, body)
            if promote:
                return self._command("promote", {**arguments, "version": promote[1]})
            return self._command(path[1:], arguments)
        if path not in {"/metrics", "/healthz", "/readyz", "/status"}:
            raise Refusal(
                HTTPStatus.NOT_FOUND,
                "there are GET /metrics /healthz /readyz /status, POST /learn /rollback /models/VERSION/promote",
            )
        _allow(method, "GET", "HEAD")
        if path == "/metrics":
            encode, content_type = choose_encoder(headers.get("Accept", ""))
            return Answer(HTTPStatus.OK, encode(self._registry), content_type)
        if path == "/status":
            return as_json(self._answers.status())
        health = self._answers.health() if path == "/healthz" else self._answers.ready()
        status = HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE
        return as_json({"ok": health.ok, "reasons": health.reasons}, status)

    def _command(self, name: str, arguments: dict[str, Any]) -> Answer:
        log.info("command", name=name, arguments=arguments)
        try:
            return as_json(self._answers.command(name, arguments))
        except CommandRefused as error:
            raise Refusal(HTTPStatus.CONFLICT, str(error)) from None

    def _authorise(self, headers: Message, *, loopback: bool) -> None:
        host, origin = headers.get("Host", ""), headers.get("Origin")
        foreign = origin is not None and origin not in {f"http://{host}", f"https://{host}"}
        if foreign or headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            raise Refusal(HTTPStatus.FORBIDDEN, "commands from a page of another site are refused")
        if self._token is not None:
            scheme, _, given = headers.get("Authorization", "").partition(" ")
            # Bytes: compare_digest refuses text that is not ASCII, and headers arrive as Latin-1.
            same = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._token.encode())
            if scheme.lower() != "bearer" or not same:
                error = "this command needs `Authorization: Bearer …` with the daemon's token"
                raise Refusal(HTTPStatus.UNAUTHORIZED, error, **{"WWW-Authenticate": 'Bearer realm="relearnd"'})
        elif not loopback:
            raise Refusal(
                HTTPStatus.FORBIDDEN,
                "commands are off: set RELEARND_TOKEN or RELEARND_TOKEN_FILE for the daemon, or listen on 127.0.0.1",
            )
        elif not is_loopback(_PORT.sub("", host)):
            raise Refusal(HTTPStatus.FORBIDDEN, f"`Host: {host}` is not this machine; call it localhost")


def _allow(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"use {' or '.join(allowed)}", Allow=", ".join(allowed))


def _arguments(headers: Message, body: bytes) -> dict[str, Any]:
    if headers.get_content_type() != "application/json" or "Content-Type" not in headers:
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "commands need `Content-Type: application/json`")
    if not body:
        return {}
    try:
        arguments = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the body must be a JSON object")
    return arguments


def is_loopback(host: str) -> bool:
    """Whether an address (`::1` and `[::1]` alike) or name is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
