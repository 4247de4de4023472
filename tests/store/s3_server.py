"""A real S3 server on loopback for tests: the Ceph RADOS gateway, in a chroot that is cached outside the checkout.

``python -m tests.store.s3_server install`` fetches it once (root, Debian); ``start`` prints the settings of a server
that runs until ``stop``. Tests use the fixture ``s3``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGES = "ceph-mon,ceph-osd,radosgw,ceph-common"
SUITES = ("sid", "trixie")  # conditional writes as AWS answers them came with Ceph 20
START_TIMEOUT = 180  # seconds


class NoServer(Exception):
    """The server cannot be installed or started here."""


def cache() -> Path:
    """Folder of what is fetched once: TOMOBURST_CACHE, else ~/.cache/tomoburst."""
    return Path(os.environ.get("TOMOBURST_CACHE") or Path.home() / ".cache" / "tomoburst")


def installed() -> Path | None:
    """The chroot with the newest server; None when there is none."""
    found = [path for path in cache().glob("ceph-*") if (path / "usr/bin/radosgw").exists()]
    return max(found, key=lambda path: [int(part) for part in path.name[5:].split(".")], default=None)


def install() -> Path:
    """The chroot with the server, fetched with mmdebstrap from the Debian mirror of this machine if need be."""
    if (found := installed()) is not None:
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NoServer("the S3 server of the tests is installed by root on Debian")
    if shutil.which("mmdebstrap") is None:
        _apt("update", "-q")
        _apt("install", "-q", "-y", "--no-install-recommends", "mmdebstrap")
    cache().mkdir(parents=True, exist_ok=True)
    building = cache() / f"building-{os.getpid()}"
    try:
        for suite in SUITES:
            shutil.rmtree(building, ignore_errors=True)
            if _bootstrap(suite, building):
                break
        else:
            raise NoServer(f"mmdebstrap found {PACKAGES} in none of {SUITES}")
        version = subprocess.run(
            ["chroot", building, "radosgw", "--version"], check=True, capture_output=True, text=True
        ).stdout.split()[2]
        with contextlib.suppress(OSError):  # another process has put the same there
            building.rename(cache() / f"ceph-{version}")
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return cache() / f"ceph-{version}"


def _apt(*arguments: str) -> None:
    subprocess.run(["apt-get", *arguments], check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def _bootstrap(suite: str, folder: Path) -> bool:
    """Unpack the packages and what they need; no script of theirs runs."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    mirror = next((target for target in targets if "security" not in target), "")
    without = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale")]
    expiry = "--aptopt=Acquire::Check-Valid-Until false"  # a mirror of a moving suite may lag behind
    command = ["mmdebstrap", "--mode=root", "--variant=extract", f"--include={PACKAGES}", expiry, *without]
    if subprocess.run([*command, suite, str(folder), mirror]).returncode != 0:
        return False
    for name in ("proc", "dev", "sys", "tmp", "srv"):
        (folder / name).mkdir(exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if not (folder / name).exists():
            (folder / name).symlink_to(f"usr/{name}")
    return True


@dataclass(frozen=True)
class S3Server:
    """A server that runs: its address, the keys of its user, and where it keeps its state."""

    endpoint: str
    access_key: str
    secret_key: str
    root: str
    name: str
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        """What clients need."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def admin(self, *arguments: str) -> str:
        """Answer of ``radosgw-admin ARGUMENTS``."""
        tool = ["chroot", self.root, "radosgw-admin", "-c", f"/srv/{self.name}/ceph.conf", "-n", "client.rgw.a"]
        inside = ["nsenter", f"--target={_first_process(self.pid)}", "--mount", "--pid"]
        return subprocess.run([*inside, *tool, *arguments], check=True, capture_output=True, text=True).stdout

    @functools.cached_property
    def client(self) -> Any:
        """A filesystem for this server, whatever the environment says."""
        import s3fs

        settings = {"endpoint_url": self.endpoint, "key": self.access_key, "secret": self.secret_key}
        return s3fs.S3FileSystem(**settings, skip_instance_cache=True, use_listings_cache=False)

    def stop(self) -> None:
        """End all its processes; its mounts go with them."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        shutil.rmtree(Path(self.root) / "srv" / self.name, ignore_errors=True)


def _first_process(parent: int) -> int:
    return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])


def start(*, with_parent: bool) -> S3Server:
    """Start a server; ``with_parent``: it ends when this process does."""
    root = installed()
    if root is None:
        raise NoServer("no S3 server is installed: python -m tests.store.s3_server install (root, Debian)")
    if os.geteuid() != 0:
        raise NoServer("the S3 server of the tests is started by root")
    _remove_remains(root)
    port, monitor_port = _free_ports(2)
    name, access_key, secret_key = (uuid.uuid4().hex for _ in range(3))
    state = root / "srv" / name
    state.mkdir(parents=True)
    lifetime = ["setpriv", "--pdeathsig", "KILL"] if with_parent else []
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    script = ["bash", str(HERE / "ceph.sh"), str(root), name, str(port), str(monitor_port), access_key, secret_key]
    with (state / "output").open("wb") as output:
        process = subprocess.Popen(
            [*lifetime, *alone, *script],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = S3Server(f"http://127.0.0.1:{port}", access_key, secret_key, str(root), name, process.pid)
    begin = time.monotonic()
    while not (state / "ready").exists():
        if process.poll() is not None or time.monotonic() - begin > START_TIMEOUT:
            said = (state / "output").read_text()[-2000:]
            server.stop()
            raise NoServer(f"the S3 server does not start: {said}")
        time.sleep(0.05)
    process.returncode = 0  # it is waited for by `stop`
    return server


def _remove_remains(root: Path) -> None:
    """Remove the state of servers that ended with a killed test session, an hour ago or more."""
    running = b" ".join(_command_line(process) for process in Path("/proc").glob("[0-9]*"))
    for state in (root / "srv").iterdir():
        if state.name.encode() not in running and time.time() - state.stat().st_mtime > 3600:
            shutil.rmtree(state, ignore_errors=True)


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def running() -> Iterator[S3Server]:
    """A server for the length of a block."""
    server = start(with_parent=True)
    try:
        yield server
    finally:
        server.stop()


def main(command: str) -> None:
    """Install, start or stop a server from a shell."""
    remembered = cache() / "s3-server.json"
    if command == "install":
        print(install())
    elif command == "start" and remembered.exists():
        raise NoServer(f"a server is there already, see {remembered}: stop it first")
    elif command == "start":
        server = start(with_parent=False)
        remembered.write_text(json.dumps(asdict(server)))
        print("\n".join(f"export {name}={value}" for name, value in server.environment.items()))
    elif command == "stop" and not remembered.exists():
        raise NoServer("no server was started")
    elif command == "stop":
        S3Server(**json.loads(remembered.read_text())).stop()
        remembered.unlink()
    else:
        raise SystemExit("usage: python -m tests.store.s3_server install|start|stop")


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) == 2 else "")
    except NoServer as error:
        raise SystemExit(str(error)) from error
