"""An HTTP proxy in front of an S3 server that makes a share of the requests fail as networks and stores do."""

from __future__ import annotations

import collections
import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ERRORS = {"500": "InternalError", "503": "SlowDown", "429": "TooManyRequests"}
REFUSALS = {"501": "NotImplemented"}  # never by chance, only by `FaultyProxy.force`
BEFORE = (*ERRORS, "reset", "timeout")  # the request does not reach the store
AFTER = ("lost", "500-after")  # the store has done it, the client does not learn so
READS = ("truncate", "slow")  # of bodies of GET
STALE = "stale"  # the answer before to the same listing
TRANSIENT = (*BEFORE, *AFTER, *READS)
ALL = (*TRANSIENT, STALE)


class FaultyProxy(ThreadingHTTPServer):
    """Forwards to ``upstream`` (host, port); a request fails with probability ``rate`` in one of the ways of ``kinds``.

    Headers named in ``unknown`` (lower case) are left out, as by a store that does not know them. ``counts`` holds how
    often each kind happened. `force` decides about coming requests instead of chance, until they came or `end_force`.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        upstream: tuple[str, int],
        kinds: Sequence[str] = ALL,
        rate: float = 0.05,
        seed: int = 1,
        hang: float = 3.0,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.kinds = kinds
        self.rate = rate
        self.hang = hang  # seconds that a timeout lasts
        self.unknown: set[str] = set()
        self.counts: collections.Counter[str] = collections.Counter()
        self.requests = 0
        self.listings: dict[str, tuple[int, list[tuple[str, str]], bytes]] = {}
        self._random = random.Random(seed)
        self._forced: list[tuple[str, str, str, int]] = []
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """URL of the proxy."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def force(self, kind: str, times: int, method: str = "", path: str = "") -> None:
        """Let the next ``times`` requests of a method whose URL contains ``path`` fail, or pass (``kind=""``)."""
        with self._lock:
            self._forced.append((kind, method, path, times))

    def end_force(self) -> None:
        """Leave all requests to chance again."""
        with self._lock:
            self._forced.clear()

    def fault_of(self, method: str, path: str) -> str:
        """What is to happen to a request; ``""`` for nothing."""
        with self._lock:
            self.requests += 1
            kind = self._drawn(method, path)
            if kind:
                self.counts[kind] += 1
            return kind

    def _drawn(self, method: str, path: str) -> str:
        for index, (kind, wanted_method, part, times) in enumerate(self._forced):
            if wanted_method in ("", method) and part in path:
                self._forced[index] = (kind, wanted_method, part, times - 1)
                self._forced = [forced for forced in self._forced if forced[3] > 0]
                return kind
        if self._random.random() >= self.rate:
            return ""
        kind = self._random.choice(self.kinds)
        suits = {"truncate": method == "GET", "slow": method == "GET", STALE: _is_listing(method, path)}
        return kind if suits.get(kind, True) else ""

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that break are what this server is for."""


def _is_listing(method: str, path: str) -> bool:
    return method == "GET" and "list-type=2" in path


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyProxy
    upstream: http.client.HTTPConnection | None = None

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def finish(self) -> None:
        if self.upstream is not None:
            self.upstream.close()
        with contextlib.suppress(OSError):
            super().finish()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault_of(self.command, self.path)
        if code := (ERRORS | REFUSALS).get(fault):
            self._answer(int(fault), [], _error(code))
            return
        if fault in ("reset", "timeout"):
            time.sleep(self.server.hang if fault == "timeout" else 0.0)
            self._reset()
            return
        status, headers, answer = self._forward(body)
        if _is_listing(self.command, self.path):
            now = (status, headers, answer)
            earlier = self.server.listings.get(self.path, now)
            self.server.listings[self.path] = now
            status, headers, answer = earlier if fault == STALE else now
        if fault == "lost":
            self._reset()
        elif fault == "500-after":
            self._answer(500, [], _error("InternalError"))
        else:
            self._answer(status, headers, answer, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 -- names of the base class

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        if self.upstream is None:
            self.upstream = http.client.HTTPConnection(*self.server.upstream, timeout=60)
        left_out = {"expect", "connection", *self.server.unknown}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
        self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            self.upstream.putheader(name, value)
        self.upstream.endheaders(body)
        answer = self.upstream.getresponse()
        return answer.status, answer.getheaders(), answer.read()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: str = "") -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value  # of HEAD: that of the body which is not sent
            elif name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "truncate" and body:
            self.wfile.write(body[: len(body) // 2])
            self._reset(gently=True)
            return
        for piece in _pieces(body, 8 if fault == "slow" else 1):
            time.sleep(0.05 if fault == "slow" else 0.0)
            self.wfile.write(piece)

    def _reset(self, *, gently: bool = False) -> None:
        if not gently:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


def _error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>made to fail</Message></Error>'.encode()


def _pieces(body: bytes, number: int) -> Iterator[bytes]:
    size = max(1, -(-len(body) // number))
    for start in range(0, len(body), size):
        yield body[start : start + size]


@contextlib.contextmanager
def faulty_proxy(endpoint: str, **settings: object) -> Iterator[FaultyProxy]:
    """A proxy in front of ``http://host:port`` for the length of a block; settings as those of `FaultyProxy`."""
    host, port = endpoint.removeprefix("http://").split(":")
    with FaultyProxy((host, int(port)), **settings) as proxy:  # type: ignore[arg-type]
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
