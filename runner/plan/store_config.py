"""Where S3 is: the flags that every command with stores has."""

from __future__ import annotations

from dataclasses import dataclass

from runner.errors import UsageError
from runner.plan.flags import flag

_STORE = "Storage"


@dataclass(frozen=True)
class StoreConfig:
    """How ``s3://`` names are reached; nothing given: as the environment says."""

    s3_endpoint: str = flag(
        "", "URL of the S3 server, http(s)://HOST[:PORT] (default: AWS_ENDPOINT_URL, else AWS)", section=_STORE
    )
    s3_region: str = flag("", "region of the buckets (default: AWS_REGION, else as AWS tools find it)", section=_STORE)
    s3_anon: bool = flag(False, "send no credentials: public buckets", section=_STORE)

    def validate(self) -> None:
        """Check the flags.

        Raises
        ------
        UsageError
            The endpoint is no URL.
        """
        if self.s3_endpoint and not self.s3_endpoint.startswith(("http://", "https://")):
            raise UsageError(f"--s3_endpoint {self.s3_endpoint}: give a URL, http://HOST:PORT or https://HOST")
