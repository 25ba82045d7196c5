"""A schema registry on a loopback port: what clients ask of Confluent's, answered from memory.

docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

import base64
import json
import re
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote


class RegistryServer:
    """Start and stop it as a context; `down` makes it answer 503, `login` ask for basic authentication."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.schemas: list[dict[str, Any]] = []
        self.subjects: dict[str, list[int]] = {}
        self.requests: list[str] = []
        self.down = False
        self.login: str | None = None
        self.types = ["AVRO", "JSON", "PROTOBUF"]
        #: Whether Protobuf comes as file descriptors when asked for `format=serialized`.
        self.serializes = True
        #: Answers to new schemas of a subject: (HTTP status, error code).
        self.refuses: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"{self._scheme}://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def register(self, subject: str, text: str, kind: str, references: list[dict[str, Any]] | None = None) -> int:
        """The id of a schema under a subject, new if it has to be."""
        schema = {"schema": text, "schemaType": kind, "references": references or []}
        with self._lock:
            if schema not in self.schemas:
                self.schemas.append(schema)
            id = self.schemas.index(schema) + 1
            versions = self.subjects.setdefault(subject, [])
            if id not in versions:
                versions.append(id)
            return id

    def answer(self, method: str, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        route, _, query = path.partition("?")
        self.requests.append(f"{method} {path}")
        if self.down:
            return 503, {"error_code": 50302, "message": "Registry is going down"}
        if route == "/schemas/types":
            return 200, self.types
        if found := re.fullmatch(r"/schemas/ids/(\d+)", route):
            id = int(found[1])
            if not 1 <= id <= len(self.schemas):
                return 404, {"error_code": 40403, "message": f"Schema {id} not found"}
            return 200, self._shown(id, query)
        if found := re.fullmatch(r"/subjects/([^/]+)/versions/(\d+)", route):
            versions = self.subjects.get(unquote(found[1]), [])
            version = int(found[2])
            if not 1 <= version <= len(versions):
                return 404, {"error_code": 40402, "message": "Version not found"}
            return 200, self._shown(versions[version - 1], query) | {
                "subject": unquote(found[1]),
                "version": version,
                "id": versions[version - 1],
            }
        if found := re.fullmatch(r"/subjects/([^/]+)(/versions)?", route):
            subject = unquote(found[1])
            schema = {
                "schema": body["schema"],
                "schemaType": body.get("schemaType", "AVRO"),
                "references": body.get("references", []),
            }
            if found[2] is None:
                if schema not in [self.schemas[id - 1] for id in self.subjects.get(subject, [])]:
                    return 404, {"error_code": 40403, "message": "Schema not found"}
                return 200, {"subject": subject, "version": 1, "id": self.schemas.index(schema) + 1, **schema}
            if subject in self.refuses:
                status, code = self.refuses[subject]
                return status, {"error_code": code, "message": "Schema being registered is incompatible"}
            return 200, {"id": self.register(subject, schema["schema"], schema["schemaType"], schema["references"])}
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def _shown(self, id: int, query: str) -> dict[str, Any]:
        schema = dict(self.schemas[id - 1])
        if schema["schemaType"] == "PROTOBUF" and not (self.serializes and "format=serialized" in query):
            schema["schema"] = 'syntax = "proto3";'
        return schema

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer("GET", {})

            def do_POST(self) -> None:
                self._answer("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class calls it so)
                """Tests read `requests`."""

            def _answer(self, method: str, body: Mapping[str, Any]) -> None:
                expected = registry.login and "Basic " + base64.b64encode(registry.login.encode()).decode()
                if expected and self.headers.get("Authorization") != expected:
                    status, content = 401, {"error_code": 401, "message": "Unauthorized"}
                else:
                    status, content = registry.answer(method, self.path, body)
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        return Handler
