"""Which failures are tried again, for how long, and what is said about them."""

from __future__ import annotations

import itertools

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
    SSLError,
)

from runner.errors import StorageError
from runner.store import objects, retry
from runner.store.retry import RetryPolicy, Trouble, reason, retrying, trouble
from runner.store.s3_errors import S3Error

URL = {"endpoint_url": "https://store.example"}


answer = S3Error


def refusal(code: str, status: int) -> ClientError:
    """What botocore raises when the service that gives credentials answers so."""
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "AssumeRole")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (answer("InternalError", 500), Trouble.TRANSIENT),
        (answer("SlowDown", 503), Trouble.TRANSIENT),
        (answer("503", 503), Trouble.TRANSIENT),
        (answer("TooManyRequests", 429), Trouble.TRANSIENT),
        (answer("RequestTimeout", 400), Trouble.TRANSIENT),
        (answer("ConditionalRequestConflict", 409), Trouble.TRANSIENT),
        (ConnectionClosedError(**URL), Trouble.TRANSIENT),
        (ReadTimeoutError(**URL), Trouble.TRANSIENT),
        (EndpointConnectionError(**URL), Trouble.TRANSIENT),
        (CredentialRetrievalError(provider="role", error_msg="timed out"), Trouble.TRANSIENT),
        (ConnectionResetError(), Trouble.TRANSIENT),
        (TimeoutError(), Trouble.TRANSIENT),
        (answer("ExpiredToken", 400), Trouble.CREDENTIALS),
        (answer("InvalidAccessKeyId", 403), Trouble.CREDENTIALS),
        (answer("RequestExpired", 400), Trouble.CREDENTIALS),
        (answer("TokenRefreshRequired", 400), Trouble.CREDENTIALS),
        (NoCredentialsError(), Trouble.CREDENTIALS),
        (refusal("Throttling", 400), Trouble.TRANSIENT),
        (refusal("ExpiredTokenException", 400), Trouble.CREDENTIALS),
        (refusal("ValidationError", 400), Trouble.PERMANENT),
        (answer("AccessDenied", 403), Trouble.CREDENTIALS),
        (answer("403", 403), Trouble.CREDENTIALS),
        (answer("NoSuchKey", 404), Trouble.PERMANENT),
        (answer("NoSuchBucket", 404), Trouble.PERMANENT),
        (answer("PreconditionFailed", 412), Trouble.PERMANENT),
        (answer("InsufficientCapacity", 507), Trouble.PERMANENT),
        (SSLError(**URL, error="self-signed"), Trouble.PERMANENT),
        (OSError(28, "No space left on device"), Trouble.PERMANENT),
        (FileNotFoundError(), Trouble.PERMANENT),
        (RuntimeError("a fault of a driver"), Trouble.PERMANENT),
    ],
    ids=lambda value: repr(value.__cause__ or value)[:60] if isinstance(value, Exception) else value.name,
)
def test_classes_of_failures(error, expected):
    assert trouble(error) is expected


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that would have been made, on a clock that they move."""
    made: list[float] = []
    monkeypatch.setattr("time.sleep", made.append)
    monkeypatch.setattr("time.monotonic", lambda: sum(made))
    return made


def failing(error: Exception, times: float, answered: list[int]):
    """A request that fails so many times."""
    for_ever = itertools.count()

    def request() -> str:
        if next(for_ever) < times:
            raise error
        answered.append(1)
        return "answer"

    return request


def never() -> bool:
    raise AssertionError("nobody asked for credentials")


def test_a_request_succeeds_in_the_end(pauses):
    objects.reset_request_counts()
    assert retrying(failing(answer("SlowDown", 503), 4, []), never) == "answer"
    assert objects.request_counts()["retries"] == len(pauses) == 4


def test_pauses_grow_are_random_and_end(pauses):
    with pytest.raises(OSError) as caught:  # noqa: PT011 -- the error of the driver itself
        retrying(failing(answer("SlowDown", 503), 1e9, []), never)
    assert len(pauses) == retry.POLICY.attempts - 1
    longest = [min(retry.POLICY.longest_pause, retry.POLICY.first_pause * 2**index) for index in range(len(pauses))]
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert len({pause / most for pause, most in zip(pauses, longest, strict=True)}) == len(pauses)
    assert "after 8 attempts" in reason(caught.value)


def test_patience_ends_before_the_attempts(pauses, monkeypatch):
    monkeypatch.setattr(retry, "POLICY", RetryPolicy(attempts=1000, first_pause=8, longest_pause=8, patience=60))
    with pytest.raises(TimeoutError):
        retrying(failing(TimeoutError(), 1e9, []), never)
    assert 60 <= sum(pauses) < 68


def test_what_will_come_again_is_not_tried_again(pauses):
    with pytest.raises(FileNotFoundError):
        retrying(failing(FileNotFoundError(), 1, []), never)
    assert pauses == []


def test_credentials_are_looked_up_twice_at_most(pauses):
    asked: list[int] = []

    def renew() -> bool:
        asked.append(1)
        return True

    assert retrying(failing(answer("ExpiredToken", 400), 1, []), renew) == "answer"
    assert len(asked) == 1
    with pytest.raises(OSError):  # noqa: PT011 -- the error of the driver itself
        retrying(failing(answer("ExpiredToken", 400), 1e9, []), renew)
    assert len(asked) == 3


@pytest.mark.parametrize(
    "text",
    [
        "Authorization 'AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260101/x, Signature=fe5f80' is malformed",
        "The key AKIAIOSFODNN7EXAMPLE is not known",
        "aws_secret_access_key: wJalrXUtnFEMI",
    ],
)
def test_no_credentials_in_messages(text):
    said = reason(answer("InvalidRequest", 400, text))
    assert "***" in said
    assert not any(secret in said for secret in ("AKIAIOSFODNN7EXAMPLE", "fe5f80", "wJalrXUtnFEMI"))


def test_reasons_are_one_line():
    assert reason(OSError(28, "No space left\non device")) == "No space left on device"
    assert reason(answer("PreconditionFailed", 412)) == "PreconditionFailed, HTTP status 412"
    assert reason(answer("QuotaExceeded", 403, "bucket is\nfull")) == "QuotaExceeded bucket is full, HTTP status 403"
    assert reason(answer("AccessDenied", 403)).startswith("access denied: ")
    assert reason(RuntimeError()) == "RuntimeError"


def test_options_stay_with_the_process():
    options = objects.StoreOptions(endpoint="http://127.0.0.1:9", region="eu-west-1", anonymous=True)
    objects.use(options)
    try:
        assert objects.options_in_use() == options
    finally:
        objects.use(objects.StoreOptions())


def test_a_driver_that_does_not_exist():
    with pytest.raises(StorageError, match="no storage driver"):
        objects.list_objects("nosuchscheme://x")
