import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from daemon import web
from daemon.metrics import Metrics
from daemon.web import CommandRefused, Health, WebError, WebServer, read_token

JSON = {"Content-Type": "application/json"}


class Daemon:
    """What stands behind the server: notes commands, and is as healthy as it is told."""

    def __init__(self) -> None:
        self.health = Health(ok=True)
        self.commands: list[tuple[str, dict[str, Any]]] = []

    def serve(self, host: str = "127.0.0.1", port: int = 0, token: str | None = None) -> WebServer:
        return WebServer(
            host,
            port,
            registry=Metrics("0").registry,
            health=lambda: self.health,
            ready=lambda: Health(ok=False, reasons=("no champion yet; run `relearnd fit`",)),
            status=self.status,
            command=self.command,
            token=token,
        )

    def status(self) -> Mapping[str, Any]:
        return {"champion": "v1", "accuracy": float("nan"), "home": Path("relearnd-home")}

    def command(self, name: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
        if arguments.get("version") == "v404":
            raise CommandRefused("there is no version v404")
        if "boom" in arguments:
            raise OSError("disk on fire, secret inside")
        self.commands.append((name, arguments))
        return {"done": name}


@pytest.fixture(scope="module")
def shared() -> Daemon:
    return Daemon()


@pytest.fixture(scope="module")
def server(shared: Daemon) -> Iterator[WebServer]:
    with shared.serve() as server:
        yield server


@pytest.fixture
def daemon(shared: Daemon) -> Daemon:
    shared.commands.clear()
    shared.health = Health(ok=True)
    return shared


class Reply:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def ask(
    server: WebServer, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] = JSON
) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, body, dict(headers))
        return Reply(connection.getresponse())
    finally:
        connection.close()


def raw(server: WebServer, data: bytes) -> bytes:
    """What comes back for bytes that http.client would not send."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_metrics_come_in_the_format_that_is_asked_for(server: WebServer) -> None:
    text = ask(server, "GET", "/metrics")
    openmetrics = ask(server, "GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert text.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"\nrelearnd_texts_scored_total 0.0\n" in text.body
    assert list(parse_openmetrics(openmetrics.body.decode()))  # type: ignore[no-untyped-call]  # it has no types


def test_health_says_what_is_wrong(server: WebServer, daemon: Daemon) -> None:
    well = ask(server, "GET", "/healthz")
    daemon.health = Health(ok=False, reasons=("the broker has been away for 90 s",))
    ill = ask(server, "GET", "/healthz")

    assert (well.status, well.json) == (200, {"ok": True, "reasons": []})
    assert (ill.status, ill.json) == (503, {"ok": False, "reasons": ["the broker has been away for 90 s"]})


def test_ready_is_asked_apart_from_health(server: WebServer) -> None:
    assert ask(server, "GET", "/readyz").status == 503


def test_status_is_json_even_where_a_number_is_not_known(server: WebServer) -> None:
    reply = ask(server, "GET", "/status?pretty=1")

    assert (reply.status, reply.json) == (200, {"champion": "v1", "accuracy": None, "home": "relearnd-home"})
    assert reply.headers["Cache-Control"] == "no-store"


def test_head_has_the_headers_alone(server: WebServer, daemon: Daemon) -> None:
    reply = ask(server, "HEAD", "/healthz")

    assert (reply.status, reply.body) == (200, b"")
    assert int(reply.headers["Content-Length"]) > 0


def test_commands_reach_the_daemon_with_their_arguments(server: WebServer, daemon: Daemon) -> None:
    assert ask(server, "POST", "/learn").json == {"done": "learn"}
    ask(server, "POST", "/models/v7/promote", '{"because": "I looked", "version": "v1"}')
    ask(server, "POST", "/rollback", '{"because": "noisy"}', {"Content-Type": "application/json; charset=utf-8"})

    assert daemon.commands == [
        ("learn", {}),
        ("promote", {"because": "I looked", "version": "v7"}),
        ("rollback", {"because": "noisy"}),
    ]


def test_a_refused_command_says_why(server: WebServer) -> None:
    reply = ask(server, "POST", "/models/v404/promote")

    assert (reply.status, reply.json) == (409, {"error": "there is no version v404"})


def test_a_failure_inside_is_logged_and_not_shown(server: WebServer) -> None:
    with structlog.testing.capture_logs() as lines:
        reply = ask(server, "POST", "/learn", '{"boom": 1}')

    assert reply.status == 500
    assert b"secret" not in reply.body
    assert [line["path"] for line in lines if line["event"] == "request failed"] == ["/learn"]


@pytest.mark.parametrize("path", ["/", "/metric", "/models/../promote", "/models/a%2Fb/promote", "/models//promote"])
def test_unknown_paths_are_not_found_and_say_what_there_is(server: WebServer, daemon: Daemon, path: str) -> None:
    for method in ("GET", "POST"):
        reply = ask(server, method, path)

        assert reply.status == 404
        assert "/models/VERSION/promote" in reply.json["error"]
    assert daemon.commands == []


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/metrics", "GET, HEAD"),
        ("PUT", "/status", "GET, HEAD"),
        ("OPTIONS", "/learn", "POST"),
        ("GET", "/learn", "POST"),
        ("DELETE", "/models/v1/promote", "POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(server: WebServer, method: str, path: str, allowed: str) -> None:
    reply = ask(server, method, path)

    assert (reply.status, reply.headers["Allow"]) == (405, allowed)
    assert "Access-Control-Allow-Origin" not in reply.headers


@pytest.mark.parametrize(
    "body", [b"{", b"[1]", b'"x"', b"\xff", b'{"a": NaN}', b"[" * 60_000, b'{"a": "\\ud800"}', b'{"a": ' + b"9" * 5000]
)
def test_a_body_that_is_no_json_object_is_refused(server: WebServer, daemon: Daemon, body: bytes) -> None:
    reply = ask(server, "POST", "/learn", body)

    assert reply.status == 400
    assert "body" in reply.json["error"]
    assert daemon.commands == []


def test_the_largest_body_is_taken_and_a_larger_one_is_told_so(server: WebServer, daemon: Daemon) -> None:
    largest = b'{"because": "' + b"x" * (64 * 1024 - 15) + b'"}'
    assert len(largest) == 64 * 1024

    assert ask(server, "POST", "/learn", largest).status == 200
    for size in (len(largest) + 1, 900_000):
        assert ask(server, "POST", "/learn", b" " * size).status == 413
    assert len(daemon.commands) == 1


@pytest.mark.parametrize("length", [b"-1", b"x", b"1_0", b"9" * 5000, "٣".encode()])
def test_a_length_that_is_no_number_is_refused(server: WebServer, daemon: Daemon, length: bytes) -> None:
    head = b"POST /learn HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "

    assert b" 400 " in raw(server, head + length + b"\r\n\r\n{}").splitlines()[0]
    assert daemon.commands == []


def test_a_chunked_body_is_refused(server: WebServer, daemon: Daemon) -> None:
    head = b"POST /learn HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

    assert b" 411 " in raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n").splitlines()[0]
    assert daemon.commands == []


@pytest.mark.parametrize("end", ["", "Content-Ty", "Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"])
def test_a_request_that_stops_midway_commands_nothing(server: WebServer, daemon: Daemon, end: str) -> None:
    assert raw(server, b"POST /learn HTTP/1.1\r\nHost: localhost\r\n" + end.encode()) == b""
    assert daemon.commands == []


@given(line=st.binary(max_size=60).filter(lambda line: b"\n" not in line))
def test_noise_is_answered_or_dropped_and_the_server_lives(server: WebServer, line: bytes) -> None:
    reply = raw(server, line + b"\r\n\r\n")

    assert reply == b"" or b'"error"' in reply or b" 200 " in reply
    assert ask(server, "GET", "/metrics").status == 200


CROSS_SITE = [
    {**JSON, "Origin": "https://evil.example"},
    {**JSON, "Origin": "null"},
    {**JSON, "Origin": "http://localhost:1"},
    {**JSON, "Origin": "http://["},
    {**JSON, "Sec-Fetch-Site": "cross-site"},
    {**JSON, "Sec-Fetch-Site": "same-site"},
    # DNS rebinding: to the browser, one site.
    {**JSON, "Host": "evil.example:9464", "Origin": "http://evil.example:9464", "Sec-Fetch-Site": "same-origin"},
    {**JSON, "Host": ""},
]


@pytest.mark.parametrize("headers", CROSS_SITE)
def test_a_web_page_cannot_command_the_daemon(server: WebServer, daemon: Daemon, headers: dict[str, str]) -> None:
    assert ask(server, "POST", "/rollback", "{}", headers).status == 403
    assert daemon.commands == []


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_form_can_send_is_no_command(server: WebServer, daemon: Daemon, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}

    assert ask(server, "POST", "/rollback", "{}", headers).status == 415
    assert daemon.commands == []


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9464", "127.0.0.1:1", "[::1]:9464", "[::1]"])
def test_this_machine_may_be_called_by_any_of_its_names(server: WebServer, host: str) -> None:
    headers = {**JSON, "Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}

    assert ask(server, "POST", "/learn", "{}", headers).status == 200


SECRET = "s3cret-ü"  # noqa: S105  (not anyone's)

EVERYWHERE = "0.0.0.0"  # noqa: S104  (for the length of a test)


def test_elsewhere_than_on_loopback_commands_are_off_without_a_token(daemon: Daemon) -> None:
    with daemon.serve(host=EVERYWHERE) as server:
        reply = ask(server, "POST", "/learn")

        assert reply.status == 403
        assert "RELEARND_TOKEN" in reply.json["error"]
        assert ask(server, "GET", "/metrics").status == 200
    assert daemon.commands == []


@pytest.mark.parametrize("host", [EVERYWHERE, "127.0.0.1"])
def test_a_token_once_set_is_needed_and_is_enough(daemon: Daemon, host: str) -> None:
    right = {**JSON, "Authorization": f"Bearer {SECRET}".encode().decode("latin-1"), "Host": "relearnd.prod:9464"}
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer s3cret"},
        {"Authorization": f"Basic {SECRET}".encode().decode("latin-1")},
    ]
    with daemon.serve(host=host, token=SECRET) as server:
        for headers in wrong:
            reply = ask(server, "POST", "/learn", headers={**JSON, **headers})
            assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, 'Bearer realm="relearnd"')
        assert daemon.commands == []
        assert ask(server, "POST", "/learn", headers=right).status == 200


def test_the_token_comes_from_a_variable_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")

    assert read_token({}) is None
    assert read_token({"RELEARND_TOKEN": "s3cret"}) == "s3cret"
    assert read_token({"RELEARND_TOKEN_FILE": str(file)}) == "s3cret"


def test_a_token_that_cannot_be_meant_is_an_error(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")

    with pytest.raises(WebError, match="RELEARND_TOKEN is empty"):
        read_token({"RELEARND_TOKEN": ""})
    with pytest.raises(WebError, match="empty is empty"):
        read_token({"RELEARND_TOKEN_FILE": str(empty)})
    with pytest.raises(WebError, match="cannot be read"):
        read_token({"RELEARND_TOKEN_FILE": str(tmp_path / "none")})
    with pytest.raises(WebError, match="both set"):
        read_token({"RELEARND_TOKEN": "a", "RELEARND_TOKEN_FILE": "b"})


def test_a_taken_port_is_a_clear_error(server: WebServer, daemon: Daemon) -> None:
    with pytest.raises(WebError, match=rf"cannot listen on 127\.0\.0\.1:{server.port}: the port is taken .*http\.port"):
        daemon.serve(port=server.port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine_is_a_clear_error(daemon: Daemon, host: str) -> None:
    with pytest.raises(WebError, match=r"cannot listen on .*set http\.host"):
        daemon.serve(host=host)


def test_a_server_that_never_started_closes_and_frees_its_port(daemon: Daemon) -> None:
    first = daemon.serve()
    first.close()

    daemon.serve(port=first.port).close()


def test_closing_waits_for_no_idle_client_but_for_a_command_under_way() -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(name: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
        entered.set()
        assert leave.wait(20)
        return {"done": name}

    daemon = Daemon()
    daemon.command = slow  # type: ignore[method-assign]
    server = daemon.serve()
    server.start()
    replies: list[Reply] = []
    client = threading.Thread(target=lambda: replies.append(ask(server, "POST", "/learn")))
    idle = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    with idle:
        idle.sendall(b"GET /met")
        client.start()
        assert entered.wait(20)
        closing = threading.Thread(target=server.close)
        closing.start()
        assert idle.recv(1) == b""  # cut off while the command still runs
        leave.set()
        closing.join(20)
    client.join(20)

    assert not closing.is_alive()
    assert [reply.status for reply in replies] == [200]


def test_a_client_that_dawdles_is_dropped(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "CLIENT_SECONDS", 0.1)
    with daemon.serve() as server, socket.create_connection(("127.0.0.1", server.port), timeout=20) as dawdler:
        dawdler.sendall(b"POST /learn HTTP/1.1\r\n")

        assert dawdler.recv(1) == b""


def test_too_many_connections_are_turned_away_and_room_is_made_again(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 2)
    with daemon.serve() as server:
        address = ("127.0.0.1", server.port)
        first, second, third = (socket.create_connection(address, timeout=20) for _ in range(3))
        with first, second, third:
            assert third.recv(1) == b""

        assert until(lambda: answered(server))


def answered(server: WebServer) -> bool:
    try:
        return ask(server, "GET", "/healthz").status == 200
    except (http.client.HTTPException, ConnectionError):
        return False


def until(condition: Callable[[], bool]) -> bool:
    return any(condition() for _ in range(1000))
