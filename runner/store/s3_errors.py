"""What S3 answers when it does not do what it was asked, and how obstore tells of that.

obstore has few classes of errors, and tells in their text what HTTP and S3 said; here they become exceptions by which
`runner.store.retry` decides.
"""

from __future__ import annotations

import errno
import re
import ssl
from collections.abc import Iterator

NOT_FOUND = {"NoSuchKey", "NoSuchBucket", "404"}
UNREACHABLE = "the endpoint cannot be reached: correct the address or the network"
DEBUG = "\n\nDebug source:"


class S3Error(OSError):
    """An answer that is no success; ``code`` is S3's name for it, ``status`` that of HTTP (0: not told).

    An answer without a body, as to HEAD, has its status for a code.
    """

    def __init__(self, code: str, status: int = 0, message: str = "") -> None:
        super().__init__(errno.EIO, message)
        self.code, self.status = code, status


def causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what it was raised from; not what was handled meanwhile."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def s3_answer(error: BaseException) -> tuple[str, int]:
    """Code and HTTP status of the S3 answer behind ``error``; ``("", 0)`` when there is none."""
    for cause in causes(error):
        if isinstance(cause, S3Error):
            return cause.code, cause.status
        answer = getattr(cause, "response", None)
        if isinstance(answer, dict):  # of the service that gives credentials, asked by botocore
            code = str(answer.get("Error", {}).get("Code", ""))
            return code, int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return "", 0


def failure_of(error: Exception) -> Exception:
    """The exception to raise for one that obstore raised: `FileNotFoundError` (from its `S3Error`), `S3Error`, or
    `TimeoutError`, `ConnectionError` and `ssl.SSLError` where none came; any other is an `OSError`. Exceptions that are
    not obstore's are returned as they are.
    """
    from obstore.exceptions import BaseError  # not where files are local

    text = str(error)
    said = text.partition(DEBUG)[0]
    if answer := _answer(said):
        if answer.code not in NOT_FOUND:
            return answer
        missing = FileNotFoundError(errno.ENOENT, "no such object")
        missing.__cause__ = answer
        return missing
    if "InvalidCertificate" in text or "invalid peer certificate" in text:
        return ssl.SSLError("the certificate of the store is not trusted: give its authority by AWS_CA_BUNDLE")
    if re.search(r"Got invalid \w+ response", said):
        return ConnectionError("the answer is not one of S3")
    kind = re.search(r"HttpError \{\s*kind: (\w+)", text)
    if kind and kind[1] == "Timeout":
        return TimeoutError("no answer came in time")
    if kind and kind[1] == "Connect":
        return ConnectionError(UNREACHABLE)
    if kind and kind[1] in ("Interrupted", "Request", "Decode"):
        return ConnectionError("the connection broke")
    return OSError(errno.EIO, said) if isinstance(error, BaseError) else error


def _answer(said: str) -> S3Error | None:
    """The answer that a message of obstore quotes."""
    if status := re.search(r"non-2xx status code: (\d{3})", said):
        code, message = (re.search(f"<{name}>(.*?)</{name}>", said, re.DOTALL) for name in ("Code", "Message"))
        return S3Error(code[1] if code else status[1], int(status[1]), message[1] if message else "")
    if one_of_many := re.search(r"DeleteObjects request failed for key .*\(code: (\w+)\)", said):
        return S3Error(one_of_many[1])
    if "redirect without LOCATION" in said:
        return S3Error("PermanentRedirect", 301)
    return None
