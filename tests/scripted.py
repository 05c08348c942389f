"""An endpoint that answers what a test tells it to, in SageMaker's own framing.

For what the rehearsal does not do on demand: other dialects, failures, streams that break.
"""

import json
import socket
import struct
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from botocore.config import Config

EVENT_STREAM = "application/vnd.amazon.eventstream"


def event(payload: bytes, **headers: str) -> bytes:
    """One event-stream message, as the format is specified by AWS."""
    packed = b"".join(
        struct.pack(f"!B{len(name)}sBH{len(value)}s", len(name), name, 7, len(value), value)
        for name, value in (
            (f":{name.replace('_', '-')}".encode(), value.encode())
            for name, value in headers.items()
        )
    )
    prelude = struct.pack("!II", 16 + len(packed) + len(payload), len(packed))
    head = prelude + struct.pack("!I", zlib.crc32(prelude)) + packed + payload
    return head + struct.pack("!I", zlib.crc32(head))


def part(payload: bytes) -> bytes:
    return event(
        payload,
        message_type="event",
        event_type="PayloadPart",
        content_type="application/octet-stream",
    )


def exception(name: str, **body: str) -> bytes:
    return event(
        json.dumps(body).encode(),
        message_type="exception",
        exception_type=name,
        content_type="application/json",
    )


class ScriptedEndpoint:
    """Answers each request with the next script; remembers what it was asked.

    Attributes:
        url: For `endpoint_url`.
        bodies: The JSON of each request so far.
        gone: Set when a client hung up in the middle of a stream.
    """

    def __init__(self):
        self.bodies: list[dict] = []
        self.gone = threading.Event()
        self._scripts: list = []
        self._clients: list = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.bodies.append(json.loads(body))
                outer._scripts.pop(0)(self)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128  # of connections at once, however late this thread is

            def handle_error(self, request, client_address):
                """Stay quiet: clients that hang up are what the tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def forget(self):
        """Be as new: no scripts left, nothing remembered."""
        self.bodies.clear()
        self._scripts.clear()
        self.gone.clear()

    def close(self):
        for client in self._clients:
            client.close()
        self._server.shutdown()
        self._server.server_close()

    def client(self, **config):
        client = boto3.client(
            "sagemaker-runtime",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"total_max_attempts": 1}, **config),
        )
        self._clients.append(client)
        return client

    def will_answer(self, body: bytes, *, after_s: float = 0):
        self._scripts.append(lambda handler: (time.sleep(after_s), _whole(handler, 200, {}, body)))

    def will_refuse(self, status: int, code: str, message: str, **more):
        body = json.dumps({"Message": message, **more}).encode()
        headers = {"x-amzn-ErrorType": code}
        self._scripts.append(lambda handler: _whole(handler, status, headers, body))

    def will_stream(
        self,
        *messages: bytes | threading.Event,
        after_s: float = 0,
        pause_s: float = 0,
        ending: str = "end",
    ):
        """Send event-stream messages; then `end`, `reset`, or `hang` until the client goes.

        A `threading.Event` among the messages holds the stream open until it is set.
        """
        self._scripts.append(
            lambda handler: self._stream(handler, messages, after_s, pause_s, ending)
        )

    def will_be_silent(self):
        """Send nothing, not even a status, until the client goes."""
        self._scripts.append(self._wait)

    def _wait(self, handler):
        handler.close_connection = True
        handler.connection.settimeout(120)
        if handler.connection.recv(1) == b"":
            self.gone.set()

    def _stream(self, handler, messages, after_s, pause_s, ending):
        time.sleep(after_s)
        handler.close_connection = ending != "end"
        try:
            handler.send_response(200)
            handler.send_header("Content-Type", EVENT_STREAM)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            for message in messages:
                if isinstance(message, threading.Event):
                    message.wait(120)
                    continue
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(message), message))
                time.sleep(pause_s)
            if ending == "end":
                handler.wfile.write(b"0\r\n\r\n")
            elif ending == "hang":
                handler.connection.settimeout(120)
                if handler.connection.recv(1) == b"":
                    self.gone.set()
            else:
                # SO_LINGER of 0 seconds: closing sends a reset instead of an orderly end.
                handler.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                handler.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            self.gone.set()


def _whole(handler, status, headers, body):
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", **headers}.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
