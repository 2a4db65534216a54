"""The HTTP server of the Hub of `helpers.hub_server`, which also sends answers late, in pieces, or not at all."""

from __future__ import annotations

import json
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from helpers.hub_store import Answer, Request

if TYPE_CHECKING:
    from helpers.hub_server import HubServer


class QuietServer(ThreadingHTTPServer):
    """A server that prints nothing when a client has gone away."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client gave up waiting, or the connection was reset."""


def handler_of(server: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16
        disable_nagle_algorithm = True

        def answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            fault = server.fault(self.command, self.path)
            if fault is not None and fault.reset_request:
                self.rfile.read(int(self.headers.get("Content-Length", 2)) // 2)
                self.reset()
                return
            answer = server.handle(Request(self.command, self.path, headers, self.received()), fault)
            if answer is None:
                self.close_connection = True
                return
            threading.Event().wait(answer.delay_s)
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            if not isinstance(answer.body, bytes):
                self.send_header("Content-Type", "application/json; charset=utf-8")
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.send(body, answer)
            self.wfile.flush()

        def send(self, body: bytes, answer: Answer) -> None:
            if answer.resets_after is not None:
                self.wfile.write(body[: answer.resets_after])
                self.wfile.flush()
                self.reset()
                return
            for start in range(0, len(body), 1 if answer.byte_s else max(len(body), 1)):
                threading.Event().wait(answer.byte_s)
                self.wfile.write(body[start : start + 1] if answer.byte_s else body)
                self.wfile.flush()

        def reset(self) -> None:
            # Closed without waiting for what is on its way.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.wfile.flush()
            self.connection.close()

        def received(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed; `requests` holds it all."""

    return Handler
