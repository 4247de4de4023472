"""URLs of objects as text: ``s3://bucket/key``, ``memory://key``, ``file:///path`` or a plain local path."""

from __future__ import annotations

from pathlib import Path


def is_url(name: str) -> bool:
    """Whether ``name`` carries a protocol (``s3://…``)."""
    return "://" in name


def is_local(url: str) -> bool:
    """Whether ``url`` is a local path, with or without ``file://``."""
    return not is_url(url) or url.startswith(("file://", "local://"))


def local_path(url: str) -> Path:
    """Path of a local URL."""
    return Path(url.split("://", 1)[1] if is_url(url) else url)


def absolute(url: str) -> str:
    """``url`` as a process with another working directory understands it; "" stays as it is."""
    return str(local_path(url).absolute()) if url and is_local(url) else url


def join(base: str, name: str) -> str:
    """``name`` below the folder ``base``; an absolute path or URL is returned as it is."""
    if is_url(name) or Path(name).is_absolute() or not base:
        return name
    return f"{base.rstrip('/') or '/'}/{name}" if base != "/" else f"/{name}"


def parent(url: str) -> str:
    """Folder of ``url``: ``''`` for a bare local name."""
    protocol, separator, path = url.rpartition("://")
    folder = path.rpartition("/")[0]
    if not separator:
        return folder or ("/" if path.startswith("/") else "")
    return f"{protocol}://{folder}" if folder else f"{protocol}://"


def basename(url: str) -> str:
    """Last component of ``url``."""
    return url.rpartition("/")[2]
