"""Where S3 is and who asks there, found as AWS tools find it: environment, files in ``~/.aws``, roles."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import StorageError
from runner.store.s3_errors import UNREACHABLE

if TYPE_CHECKING:
    from obstore.store import S3Credential

    from runner.store.options import StoreOptions

FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
AMAZON = "https://s3.amazonaws.com"
AMAZON_TIMEOUT = 10  # seconds
ASK_AGAIN = timedelta(minutes=10)  # botocore renews the credentials of a role ten minutes before they expire or earlier


class Access:
    """Address, region and credentials that hold for ``options`` now; each is looked for when it is first asked for.

    botocore, which takes a third of a second to import, is asked only where the environment does not say everything.
    """

    def __init__(self, options: StoreOptions) -> None:
        self.anonymous = options.anonymous
        self._options = options
        self._has_files = any(
            Path(os.environ.get(variable) or usual).expanduser().exists() for variable, usual in FILES.items()
        )
        self.failure: Exception | None = None

    @cached_property
    def endpoint(self) -> str:
        """URL of the server; ``""``: Amazon's."""
        if self._options.endpoint or self._has_files:
            return self._options.endpoint or self._configured_endpoint()
        if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
            return ""
        return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""

    def _configured_endpoint(self) -> str:
        """What environment and files say together."""
        from botocore.configprovider import ConfiguredEndpointProvider

        if self._session.get_config_variable("ignore_configured_endpoint_urls"):
            return ""
        files = self._session.full_config, self._session.get_scoped_config()
        return ConfiguredEndpointProvider(*files, client_name="s3").provide() or ""

    def region(self, bucket: str) -> str:
        """Region of a bucket; of Amazon's asked for where nothing names one."""
        named = self._options.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not named and self._has_files:
            named = self._session.get_config_variable("region")
        return named or ("us-east-1" if self.endpoint else bucket_region(bucket))

    @cached_property
    def certificates(self) -> bytes:
        """Certificates of authorities that are trusted besides those of the system, which may have none; PEM.

        Raises
        ------
        StorageError
            When the file that is to hold them cannot be read.
        """
        named = os.environ.get("AWS_CA_BUNDLE")
        if not named and self._has_files:
            named = self._session.get_config_variable("ca_bundle")
        try:
            return Path(named).read_bytes() if named else _usual_authorities()
        except OSError as error:
            raise StorageError(f"AWS_CA_BUNDLE {named}: cannot be read ({error.strerror}); correct its name") from error

    def credentials(self) -> S3Credential:
        """Credentials that are valid now; asked for again where they may have changed.

        Raises
        ------
        botocore.exceptions.BotoCoreError
            When there are none, or the service that gives them does not answer; kept as ``failure``.
        """
        try:
            return self._credentials()
        except Exception as error:
            self.failure = error
            raise

    def _credentials(self) -> S3Credential:
        if self._from_environment is not None:
            return self._from_environment
        found = self._chain.get_frozen_credentials()
        expires = datetime.now(UTC) + ASK_AGAIN
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": expires,
        }

    @cached_property
    def _from_environment(self) -> S3Credential | None:
        """Keys in the environment, which come first in the chain."""
        key, secret = (os.environ.get(name, "") for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
        if not (key and secret):
            return None
        token = os.environ.get("AWS_SESSION_TOKEN") or os.environ.get("AWS_SECURITY_TOKEN")
        return {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": None}

    @cached_property
    def _chain(self) -> Any:
        """What the default chain finds."""
        from botocore.exceptions import NoCredentialsError

        found = self._session.get_credentials()
        if found is None:
            raise NoCredentialsError
        return found

    @cached_property
    def _session(self) -> Any:
        from botocore.session import Session

        return Session()


def _usual_authorities() -> bytes:
    """The certificates that botocore brings along, without importing it."""
    found = find_spec("botocore")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).with_name("cacert.pem").read_bytes()


def bucket_region(bucket: str, endpoint: str = AMAZON) -> str:
    """Region of a bucket, which Amazon tells everybody in whatever it answers; one HEAD, not counted.

    Raises
    ------
    ConnectionError
        When no answer came.
    """
    question = urllib.request.Request(f"{endpoint}/{bucket}", method="HEAD")  # noqa: S310 -- the scheme is ours
    try:
        with urllib.request.urlopen(question, timeout=AMAZON_TIMEOUT) as answer:  # noqa: S310
            headers = answer.headers
    except urllib.error.HTTPError as error:  # 301: in another region; 403: not for everybody; 404: no such bucket
        headers = error.headers
    except OSError as error:
        raise ConnectionError(UNREACHABLE) from error
    return str(headers.get("x-amz-bucket-region") or "us-east-1")
