"""What becomes of S3's answers and of those that do not come: obstore tells of them in words, which may change."""

from __future__ import annotations

import multiprocessing
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runner.errors import InputError, StorageError
from runner.store import objects
from runner.store.aws import Access
from runner.store.retry import RetryPolicy, Trouble, reason, trouble
from runner.store.s3 import S3Backend
from runner.store.s3_errors import S3Error, s3_answer

BODY = '<?xml version="1.0"?><Error><Code>{}</Code><Message>made to\nfail</Message></Error>'
REFUSED_ONE = (
    '<?xml version="1.0"?><DeleteResult><Error><Key>x</Key><Code>AccessDenied</Code><Message/></Error></DeleteResult>'
)


class Server(ThreadingHTTPServer):
    """Gives one answer to everything: an HTTP status with a body, or a piece of a body (status 0), or nothing (-1)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.body = 200, b""
        self.requests: list[str] = []
        self.headers: dict[str, str] = {}
        self.scheme = "http"

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://localhost:{self.server_address[1]}"

    def answers(self, status: int, code: str = "") -> None:
        self.status, self.body = status, BODY.format(code).encode() if code else b""

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that break are what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(self.command)
        if self.server.status < 0:
            self.close_connection = True
            return
        is_whole = self.server.status > 0
        self.send_response_only(self.server.status if is_whole else 200)
        facts = {"ETag": '"1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT", **self.server.headers}
        for name, value in facts.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.server.body) + (not is_whole)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.server.body)
        self.close_connection = not is_whole

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 -- names of the base class


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server that answers as told, found through the environment; no attempt is made twice."""
    monkeypatch.setattr("runner.store.retry.POLICY", RetryPolicy(attempts=1))
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        for name, value in (("ENDPOINT_URL", found.endpoint), ("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "s")):
            monkeypatch.setenv(f"AWS_{name}", value)
        objects.use(objects.StoreOptions())
        yield found
        objects.use(objects.StoreOptions())
        found.shutdown()
        thread.join()


OPERATIONS: dict[str, Callable[[S3Backend], object]] = {
    "read": lambda store: store.read("bucket/x", None, None),
    "range": lambda store: store.read("bucket/x", 3, 9),
    "write": lambda store: store.write("bucket/x", b"1"),
    "create": lambda store: store.create("bucket/x", b"1", "me"),
    "info": lambda store: store.info("bucket/x"),
    "find": lambda store: store.find("bucket/x"),
    "names": lambda store: store.names("bucket/x"),
    "delete": lambda store: store.delete(["bucket/x"]),
}


def failure(operation: str) -> Exception:
    """What an operation raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- which one is what is tested
        OPERATIONS[operation](S3Backend(Access(objects.StoreOptions())))
    assert isinstance(caught.value, Exception)
    return caught.value


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (500, "InternalError", Trouble.TRANSIENT),
        (503, "SlowDown", Trouble.TRANSIENT),
        (429, "TooManyRequests", Trouble.TRANSIENT),
        (403, "AccessDenied", Trouble.CREDENTIALS),
        (401, "Unauthorized", Trouble.CREDENTIALS),
        (404, "NoSuchBucket", Trouble.PERMANENT),
        (405, "MethodNotAllowed", Trouble.PERMANENT),
        (507, "InsufficientCapacity", Trouble.PERMANENT),
    ],
)
def test_an_answer_keeps_its_code_and_status(
    server: Server, operation: str, status: int, code: str, kind: Trouble
) -> None:
    server.answers(status, code)
    error = failure(operation)
    assert s3_answer(error) == (str(status) if operation == "info" else code, status)  # HEAD has no body
    assert trouble(error) is kind
    assert isinstance(error, FileNotFoundError) == (status == 404)
    assert "\n" not in reason(error)
    assert len(reason(error)) < 120


def test_conditional_creates_that_meet(server: Server) -> None:
    server.answers(409, "ConditionalRequestConflict")
    assert trouble(failure("create")) is Trouble.TRANSIENT


@pytest.mark.parametrize("operation", ["read", "write", "create", "find", "delete"])
def test_expired_credentials(server: Server, operation: str) -> None:
    server.answers(400, "ExpiredToken")
    error = failure(operation)
    assert trouble(error) is Trouble.CREDENTIALS
    assert reason(error).startswith("the credentials have expired")


def test_expired_credentials_where_the_answer_has_no_body(server: Server) -> None:
    server.answers(400)
    assert trouble(failure("info")) is Trouble.CREDENTIALS


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_connection_that_breaks(server: Server, operation: str) -> None:
    server.status = -1
    error = failure(operation)
    assert type(error) is ConnectionError
    assert trouble(error) is Trouble.TRANSIENT
    assert reason(error) == "the connection broke"


@pytest.mark.parametrize("operation", ["read", "find", "names"])
def test_a_body_that_ends_early(server: Server, operation: str) -> None:
    server.status, server.body = 0, b"<ListBucketResult>"
    assert trouble(failure(operation)) is Trouble.TRANSIENT


@pytest.mark.parametrize("operation", ["find", "names", "delete"])
def test_an_answer_that_makes_no_sense(server: Server, operation: str) -> None:
    server.status, server.body = 200, b"<html>a captive portal"
    assert trouble(failure(operation)) is Trouble.TRANSIENT


def test_an_object_of_many_that_is_not_removed(server: Server) -> None:
    server.body = REFUSED_ONE.encode()
    S3Backend(Access(objects.StoreOptions())).delete(["bucket/x", "bucket/y"])  # each by itself is not refused here
    assert server.requests == ["POST", "DELETE", "DELETE"]


@pytest.mark.parametrize("operation", ["read", "write", "find"])
def test_nobody_listens(server: Server, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    error = failure(operation)
    assert trouble(error) is Trouble.TRANSIENT
    assert reason(error).startswith("the endpoint cannot be reached")


def test_a_name_that_nobody_knows(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid")
    error = failure("read")
    assert trouble(error) is Trouble.TRANSIENT
    assert reason(error).startswith("the endpoint cannot be reached")


def test_nothing_comes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.store.s3.READ_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        error = failure("read")
    assert isinstance(error, TimeoutError)
    assert trouble(error) is Trouble.TRANSIENT


@pytest.mark.parametrize(("status", "code"), [(301, "PermanentRedirect"), (400, "AuthorizationHeaderMalformed")])
def test_a_bucket_in_another_region(server: Server, status: int, code: str) -> None:
    server.answers(status, code)
    error = failure("read")
    assert trouble(error) is Trouble.PERMANENT
    assert "give its region by --s3_region" in reason(error)


def test_a_certificate_that_nobody_vouches_for(
    server: Server, requires: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def openssl(*words: str) -> None:
        subprocess.run([requires("openssl"), *words], cwd=tmp_path, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "csr", "-subj", "/CN=localhost")
    (tmp_path / "san").write_text("subjectAltName=DNS:localhost\n")
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san"]
    openssl("x509", "-req", "-in", "csr", "-out", "cert.pem", *signed)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.scheme, server.body = "https", b"content"
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    error = failure("read")
    assert isinstance(error, ssl.SSLError)
    assert trouble(error) is Trouble.PERMANENT
    assert "AWS_CA_BUNDLE" in reason(error)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    assert S3Backend(Access(objects.StoreOptions())).read("bucket/x", None, None) == b"content"


def test_a_machine_without_certificates(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, "/nowhere")
    server.body = b"content"
    assert objects.read_bytes("s3://bucket/x") == b"content"


def test_a_folder_with_names_that_cannot_be_listed(server: Server) -> None:
    entry = "<Contents><Key>x//y</Key><LastModified>2015-10-21T07:28:00Z</LastModified><Size>1</Size></Contents>"
    server.body = f"<ListBucketResult>{entry}</ListBucketResult>".encode()
    with pytest.raises(StorageError, match=r"s3://bucket/x: the store does not answer \(.*empty path segment\)$"):
        objects.list_objects("s3://bucket/x")


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (403, "AccessDenied"), (-1, "")])
def test_a_folder_that_is_not_listed_is_not_an_empty_one(server: Server, status: int, code: str) -> None:
    server.answers(status, code)
    with pytest.raises(StorageError):
        objects.list_names("s3://bucket/x")


def test_a_store_that_minds_objects_which_are_not_there(server: Server) -> None:
    server.answers(404, "NoSuchKey")
    S3Backend(Access(objects.StoreOptions()))._delete_one("bucket", "x")
    assert server.requests == ["DELETE"]


@pytest.mark.parametrize("name", ["", "a//b", "../x", "a/./b", "a/", "a\x01b"])
def test_names_that_objects_cannot_have(server: Server, name: str) -> None:
    url = f"s3://bucket/{name}"
    with pytest.raises(StorageError, match="cannot be written"):
        objects.write_bytes(url, b"1")
    with pytest.raises((InputError, StorageError)):
        objects.read_bytes(url)
    assert server.requests == []


def test_a_fork_is_told_that_it_cannot_use_s3(server: Server) -> None:
    objects.write_bytes("s3://bucket/x", b"1")
    fork = multiprocessing.get_context("fork")
    said = fork.SimpleQueue()
    child = fork.Process(target=_ask_in_a_fork, args=(said,))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert "start processes by spawn" in said.get()


def _ask_in_a_fork(said: object) -> None:
    objects.use(objects.StoreOptions())
    try:
        objects.exists("s3://bucket/x")
    except StorageError as error:
        said.put(str(error))  # type: ignore[attr-defined]


def test_an_error_says_what_s3_said() -> None:
    assert reason(S3Error("QuotaExceeded", 403, "bucket is full")) == "QuotaExceeded bucket is full, HTTP status 403"
