"""Parses a docstring into the descriptions of a function and of each of its parameters.

Three styles are read, one per docstring: Google's (``Args:``), numpy's (``Parameters`` over a row
of dashes) and reStructuredText's (``:param name: ...``).
"""

import inspect
import re

_SECTIONS = (
    "args", "arguments", "parameters", "params", "returns", "return", "yields", "yield", "raises",
    "raise", "except", "exceptions", "example", "examples", "note", "notes", "see also",
    "references", "warnings", "attributes", "other parameters", "keyword args", "todo",
)  # fmt: skip
_PARAMETERS = ("args", "arguments", "parameters", "params", "other parameters", "keyword args")
_GOOGLE_HEAD = re.compile(r"^([A-Za-z ]+):\s*$")
_GOOGLE_ITEM = re.compile(r"^\*{0,2}([A-Za-z_]\w*)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_NUMPY_ITEM = re.compile(r"^\*{0,2}([A-Za-z_][\w, *]*?)\s*(?::.*)?$")
_FIELD = re.compile(r"^:(\w+)(?:\s+[^:]*?)??(?:\s+\*{0,2}([A-Za-z_]\w*))?\s*:\s*(.*)$")


def read_docstring(docstring: str | None) -> tuple[str, dict[str, str]]:
    """(description, {parameter: its description}); line breaks in a paragraph become spaces."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    description: list[str] = []
    parameters: dict[str, list[str]] = {}
    section, current, indent = "", None, 0
    i = 0
    while i < len(lines):
        line = lines[i]
        stripped = line.strip()
        under = lines[i + 1].strip() if i + 1 < len(lines) else ""
        google, field = _GOOGLE_HEAD.match(line), _FIELD.match(line)
        if google and google.group(1).lower() in _SECTIONS:
            section, current, indent = google.group(1).lower(), None, 0
        elif stripped.lower() in _SECTIONS and len(under) > 2 and set(under) == {"-"}:
            section, current, indent = stripped.lower() + "-", None, 0
            i += 1
        elif field:
            section = "field"
            is_parameter = field.group(1) in ("param", "parameter", "arg", "argument", "key")
            current = field.group(2) if is_parameter else None
            if current:
                parameters[current] = [field.group(3)]
        elif not section:
            description.append(stripped)
        elif section == "field":
            if current and stripped:
                parameters[current].append(stripped)
        elif section.rstrip("-") in _PARAMETERS and stripped:
            depth = len(line) - len(line.lstrip())
            pattern = _NUMPY_ITEM if section.endswith("-") else _GOOGLE_ITEM
            item = pattern.match(stripped) if current is None or depth <= indent else None
            if item:
                indent = depth
                names = [n.strip(" *") for n in item.group(1).split(",")]
                current = names[0]
                first = item.group(2) if pattern is _GOOGLE_ITEM else ""
                for name in names:
                    parameters[name] = parameters[current] if name != current else [first]
            elif current:
                parameters[current].append(stripped)
        i += 1
    return _joined(description), {name: _joined(text) for name, text in parameters.items()}


def _joined(lines: list[str]) -> str:
    paragraphs = "\n".join(lines).strip().split("\n\n")
    return "\n\n".join(" ".join(p.split()) for p in paragraphs if p.strip())
