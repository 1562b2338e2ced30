"""Files that are written whole or not at all.

A file is written under another name in the same folder and moved to its own when it is complete
and on the disk. A full disk, an error or a crash leaves an earlier file as it was.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """An open binary file whose content becomes ``path`` when the ``with`` block ends well.

    A new file gets the permissions that the umask says, a replaced one keeps its own; a link goes
    on pointing to the file. What a process that was killed left of such a file is removed.

    Raises OSError if it cannot be written.
    """
    path = Path(os.path.realpath(path))
    _remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):
            os.chmod(temporary, path.stat().st_mode & 0o7777)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # else it would hide the error
            temporary.unlink()


def write(path: str | Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data`` (text as UTF-8) in one step. Raises OSError."""
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def _remove_leftovers(path: Path) -> None:
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.[0-9a-f]{{8}}\.part")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if (match := name.fullmatch(entry.name)) and not _runs(int(match[1])):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _runs(process: int) -> bool:
    import psutil

    return psutil.pid_exists(process)
