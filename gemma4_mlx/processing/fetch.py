"""Bytes of a media file: from a path, from memory, or from an address the user gave."""

import base64
import binascii
import contextlib
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from ..errors import MediaError

#: Largest download and longest wait for one; a file on disk is bounded by what it decodes to.
MAX_DOWNLOAD_BYTES = 100 * 2**20
MAX_DOWNLOAD_SECONDS = 60.0


def is_url(source: object) -> bool:
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def is_data_url(source: object) -> bool:
    return isinstance(source, str) and source[:5].lower() == "data:"


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https alone."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not is_url(newurl):
            raise MediaError(f"{req.full_url} redirects to {newurl!r}, which is not http(s)")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(
    url: str, max_bytes: int = MAX_DOWNLOAD_BYTES, seconds: float = MAX_DOWNLOAD_SECONDS
) -> bytes:
    """The body at an http(s) address. Only called with an address the user passed in.

    Raises MediaError if it cannot be had, is larger than ``max_bytes``, or takes longer than
    ``seconds`` altogether.
    """
    if not is_url(url):
        raise MediaError(f"only http and https addresses are fetched, got {url!r}")
    deadline = time.monotonic() + seconds
    opener = urllib.request.build_opener(_HttpOnly)
    parts, size = [], 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "gemma4-mlx"})
        with opener.open(request, timeout=min(seconds, 20.0)) as response:
            declared = response.headers.get("Content-Length", "")
            if declared.isdigit() and int(declared) > max_bytes:
                raise MediaError(f"{url} is {int(declared):,} bytes, more than {max_bytes:,}")
            while part := response.read1(1 << 16):
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    raise MediaError(f"{url} is larger than {max_bytes:,} bytes")
                if time.monotonic() > deadline:
                    raise MediaError(f"{url} took longer than {seconds:g} s; download it first")
    except MediaError:
        raise
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise MediaError(f"{url} cannot be fetched: {error}") from None
    return b"".join(parts)


def from_data_url(url: str) -> bytes:
    """The bytes of a ``data:...;base64,...`` address. Raises MediaError."""
    head, comma, body = url.partition(",")
    if not comma:
        raise MediaError("a data: address without a comma holds no data")
    try:
        if head.endswith(";base64"):
            plain = "".join(urllib.parse.unquote(body).split())  # mail and editors break lines
            return base64.b64decode(plain, validate=True)
        return urllib.parse.unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"a data: address cannot be decoded: {error}") from None


def locate(source: object) -> tuple[Path | bytes, str]:
    """A path that exists or the bytes, and a name to show for it.

    ``source``: path, http(s) or data: address, bytes, or an open binary file.
    Raises MediaError for a path that is no file, an empty file, or another type.
    """
    if is_url(source):
        data = download(source)
        parts = urllib.parse.urlsplit(source)
        return data, Path(parts.path).name or parts.netloc
    if is_data_url(source):
        return from_data_url(source), "data"
    if isinstance(source, bytes | bytearray | memoryview):
        data, name = bytes(source), "bytes"
    elif isinstance(source, str | Path):
        path = Path(source).expanduser()
        try:
            if path.is_dir():
                raise MediaError(f"{path} is a folder, not a file")
            if not path.is_file():
                raise MediaError(f"{path} does not exist")
            if path.stat().st_size == 0:
                raise MediaError(f"{path} is empty")
        except MediaError:
            raise
        except (OSError, ValueError) as error:  # a name no file system takes
            raise MediaError(f"{str(source)[:80]!r} is no path: {error}") from None
        return path, path.name
    elif hasattr(source, "read"):
        data = source.read()
        # Another chat may have read it, from which this one was branched off.
        if not data and hasattr(source, "seek"):
            with contextlib.suppress(OSError, ValueError):
                source.seek(0)
                data = source.read()
        name = Path(str(getattr(source, "name", "file"))).name
        if not isinstance(data, bytes):
            raise MediaError(f"{name} is open as text; open it in binary mode ('rb')")
    else:
        raise MediaError(
            f"cannot read media from {type(source).__name__}: give a path, an http(s) address, "
            "bytes, or an array"
        )
    if not data:
        raise MediaError(f"{name} holds no bytes")
    return data, name
