"""Which failures of a store pass by themselves, and how often and how long a request is tried again."""

from __future__ import annotations

import enum
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from runner.store.counts import count
from runner.store.s3_errors import UNREACHABLE, causes, s3_answer

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """Bounds of the retries of one request; pauses grow twofold, and a random half of each is left out."""

    attempts: int = 8
    first_pause: float = 0.2  # seconds
    longest_pause: float = 10.0  # seconds
    patience: float = 180.0  # seconds after which no new attempt starts
    renewals: int = 2  # times the credentials are looked up again


POLICY = RetryPolicy()

TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
TRANSIENT_CODES = {
    "BadDigest",  # the body was damaged on its way
    "BandwidthLimitExceeded",
    "ConditionalRequestConflict",  # two conditional creates met; one of the next attempts answers
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
}
TRANSIENT_CLASSES = {  # by name: the drivers that define them are imported only where they are used
    "ClientPayloadError",  # aiohttp: the body ended early
    "ConnectionError",
    "CredentialRetrievalError",
    "FlexibleChecksumError",
    "FSTimeoutError",
    "HTTPClientError",  # botocore: resets, timeouts, refused connections
    "IncompleteReadError",
    "ReadTimeoutError",
    "ResponseParserError",
    "ResponseStreamingError",
    "ServerDisconnectedError",
    "TimeoutError",
}
CREDENTIAL_CODES = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
CREDENTIAL_CLASSES = {"NoCredentialsError", "PartialCredentialsError"}
PERMANENT_CLASSES = {"SSLError", "FileNotFoundError", "FileExistsError", "IsADirectoryError", "NotADirectoryError"}


class Trouble(enum.Enum):
    """What a failure says about the next attempt."""

    TRANSIENT = "may pass by itself"
    CREDENTIALS = "may pass with the credentials that are valid now, when others were accepted before"
    PERMANENT = "will come again"


def trouble(error: BaseException) -> Trouble:
    """Classify a failure of a driver."""
    code, status = s3_answer(error)
    if code in TRANSIENT_CODES or status in TRANSIENT_STATUS:
        return Trouble.TRANSIENT
    if code in CREDENTIAL_CODES or status in (401, 403) or code == "400":  # no body: so HEAD tells of an expired token
        return Trouble.CREDENTIALS
    if code or status:
        return Trouble.PERMANENT
    for cause in causes(error):
        names = {kind.__name__ for kind in type(cause).__mro__}
        if names & PERMANENT_CLASSES:
            return Trouble.PERMANENT
        if names & CREDENTIAL_CLASSES:
            return Trouble.CREDENTIALS
        if names & TRANSIENT_CLASSES:
            return Trouble.TRANSIENT
    return Trouble.PERMANENT


Listener = Callable[[str, int, str], None]
_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Call ``listener(url, attempt, reason)`` before each further attempt, in the thread of the request.

    It replaces the listener before, and must come back at once.
    """
    _listeners[:] = [listener]


def retrying(request: Callable[[], T], renew: Callable[[], bool], url: str = "") -> T:
    """Result of ``request``, tried again after failures that may pass.

    ``renew`` looks the credentials up again and tells whether another attempt makes sense; ``url`` is for `listen`.

    Raises
    ------
    Exception
        The last failure, with a note on the number of attempts when there were several.
    """
    begin = time.monotonic()
    renewals = 0
    attempt = 1
    while True:
        try:
            return request()
        except Exception as error:
            kind = trouble(error)
            if kind is Trouble.TRANSIENT:
                again = attempt < POLICY.attempts and time.monotonic() - begin < POLICY.patience
            elif kind is Trouble.PERMANENT:
                again = False
            else:
                renewals += 1
                again = renewals <= POLICY.renewals and renew()
            if not again:
                if attempt > 1:
                    error.add_note(f"after {attempt} attempts in {time.monotonic() - begin:.0f} s")
                raise
            why = reason(error)
        count("retries")
        for listener in _listeners:
            listener(url, attempt + 1, why)
        time.sleep(pause(attempt))
        attempt += 1


def pause(attempt: int) -> float:
    """Seconds to wait after failure number ``attempt``: random, so that clients do not return together."""
    longest = min(POLICY.longest_pause, POLICY.first_pause * 2.0 ** (attempt - 1))
    return longest * (1.0 + random.random()) / 2.0  # noqa: S311 -- no secret


SECRETS = re.compile(
    r"(?i)\w*(credential|signature|token|secret|password|key_?id)\w*\s*[=:]\s*\S+|\b(AKIA|ASIA)[A-Z0-9]{8,}\b"
)

OTHER_REGION = "the bucket is in another region: give its region by --s3_region"

EXPLAINED = {
    "NoCredentialsError": "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role",
    "InvalidAccessKeyId": "the store does not know the access key: correct the credentials",
    "SignatureDoesNotMatch": "the secret key does not fit the access key: correct the credentials",
    "ExpiredToken": "the credentials have expired: renew them",
    "AccessDenied": "access denied: these credentials lack the permission, see docs/storage.md",
    "403": "access denied: these credentials lack the permission, see docs/storage.md",
    "NoSuchBucket": "no such bucket",
    "PermanentRedirect": OTHER_REGION,
    "AuthorizationHeaderMalformed": OTHER_REGION,
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "EndpointConnectionError": UNREACHABLE,
}


def reason(error: BaseException) -> str:
    """One line on a failure, without credentials."""
    code, status = s3_answer(error)
    names = [code, *(type(cause).__name__ for cause in causes(error))]
    text = next((EXPLAINED[name] for name in names if name in EXPLAINED), "")
    if not text:
        said = getattr(error, "strerror", "") or ("" if code else str(error) or type(error).__name__)
        text = " ".join(part for part in (code, said) if part)
        text = SECRETS.sub("***", f"{text}, HTTP status {status}" if status else text)
    notes = ", ".join(getattr(error, "__notes__", []))
    text = " ".join(text.split())
    return f"{text}, {notes}" if notes else text
