"""Address, region, certificates and credentials, as AWS tools find them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from botocore.exceptions import NoCredentialsError

from runner.errors import StorageError
from runner.store import objects
from runner.store.aws import Access, bucket_region
from runner.store.options import StoreOptions
from runner.store.retry import Trouble, trouble
from tests.store.test_s3_answers import Server, server

__all__ = ["server"]  # the fixture


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    """Places of the files of AWS tools, none of which is there yet, and an environment without their variables."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    places = {"config": tmp_path / "config", "credentials": tmp_path / "credentials"}
    monkeypatch.setenv("AWS_CONFIG_FILE", str(places["config"]))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(places["credentials"]))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return places


def test_the_environment_alone(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store")
    monkeypatch.setitem(sys.modules, "botocore.session", None)  # it would cost a third of a second
    access = Access(StoreOptions())
    assert (access.endpoint, access.region("bucket")) == ("http://store", "eu-north-1")
    assert access.certificates.count(b"BEGIN CERTIFICATE") > 50
    assert access.credentials() == {
        "access_key_id": "key",
        "secret_access_key": "secret",
        "token": "token",
        "expires_at": None,
    }


def test_certificates_that_are_not_there(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://store")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere/ca.pem")
    objects.use(StoreOptions())
    with pytest.raises(StorageError, match=r"^AWS_CA_BUNDLE /nowhere/ca.pem: cannot be read"):
        objects.read_bytes("s3://bucket/x")


def test_flags_come_before_the_environment(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    access = Access(StoreOptions(endpoint="http://other", region="eu-west-1"))
    assert (access.endpoint, access.region("bucket")) == ("http://other", "eu-west-1")


def test_variables_for_s3_come_before_those_for_all(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3")
    assert Access(StoreOptions()).endpoint == "http://s3"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert Access(StoreOptions()).endpoint == ""


def test_a_profile(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = files["config"].with_name("ca.pem")
    bundle.write_bytes(b"certificates")
    files["config"].write_text(
        f"[profile lab]\nregion = ap-south-1\nendpoint_url = https://lab\nca_bundle = {bundle}\n"
        "[profile on-s3]\nservices = ours\n[services ours]\ns3 =\n  endpoint_url = https://ours\n"
    )
    files["credentials"].write_text("[lab]\naws_access_key_id = lab-key\naws_secret_access_key = lab-secret\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    access = Access(StoreOptions())
    assert (access.endpoint, access.region("bucket")) == ("https://lab", "ap-south-1")
    assert access.certificates == b"certificates"
    found = access.credentials()
    assert (found["access_key_id"], found["secret_access_key"]) == ("lab-key", "lab-secret")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert access.region("bucket") == "eu-north-1"
    monkeypatch.setenv("AWS_PROFILE", "on-s3")
    assert Access(StoreOptions()).endpoint == "https://ours"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert Access(StoreOptions()).endpoint == ""


def test_a_process_that_gives_credentials_which_expire(files: dict[str, Path]) -> None:
    program = files["config"].with_name("give")
    program.write_text(
        "#!/bin/sh\n"
        f"echo >>{program}.calls\n"
        'echo \'{"Version": 1, "AccessKeyId": "k", "SecretAccessKey": "s", "SessionToken": "t", '
        '"Expiration": "2999-01-01T00:00:00Z"}\'\n'
    )
    program.chmod(0o755)
    files["config"].write_text(f"[default]\ncredential_process = {program}\n")
    access = Access(StoreOptions())
    found = [access.credentials() for _ in range(2)]
    assert [(each["access_key_id"], each["token"]) for each in found] == [("k", "t")] * 2
    assert all(each["expires_at"] is not None for each in found)  # so that they are asked for again
    assert Path(f"{program}.calls").read_text() == "\n"


def test_no_credentials(files: dict[str, Path]) -> None:
    access = Access(StoreOptions(endpoint="http://store"))
    with pytest.raises(NoCredentialsError) as caught:
        access.credentials()
    assert access.failure is caught.value
    assert trouble(caught.value) is Trouble.CREDENTIALS


@pytest.mark.parametrize("status", [200, 301, 403])
def test_amazon_tells_where_a_bucket_is(server: Server, status: int) -> None:
    server.answers(status)
    server.headers = {"x-amz-bucket-region": "eu-south-2"}
    assert bucket_region("bucket", server.endpoint) == "eu-south-2"
    assert server.requests == ["HEAD"]


def test_amazon_does_not_answer(server: Server) -> None:
    server.status = -1
    with pytest.raises(ConnectionError) as caught:
        bucket_region("bucket", server.endpoint)
    assert trouble(caught.value) is Trouble.TRANSIENT
