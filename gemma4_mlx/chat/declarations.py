"""JSON Schemas of tool arguments, reduced to the keywords of Gemma 4's tool declarations.

A declaration has description, type, enum (of strings), items, properties, required and nullable.
References are replaced by what they refer to, ``X | None`` becomes nullable, and what has no
keyword (numeric choices, unions) is added to the description, so that the model still reads it.
Validation uses the full schema.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ToolError

#: Limit of the schemas, choices and required names in a declaration, once references are replaced:
#: definitions that refer to one another several times grow exponentially.
MOST_PLACES = 2000

_TYPES = ("string", "integer", "number", "boolean", "array", "object")


def declared_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """An object schema ready for a chat template.

    Raises ToolError for one of more than :data:`MOST_PLACES`, and what Python raises for one of
    wrong types or broken text (TypeError, UnicodeError, ...).
    """
    definitions = schema.get("$defs") or schema.get("definitions") or {}
    declared = _declared(schema, definitions, (), itertools.count())
    declared.pop("description", None)
    declared.setdefault("properties", {})
    json.dumps(declared, ensure_ascii=False).encode()  # raises for half of a surrogate pair
    return declared


def _declared(
    schema: Any, definitions: Mapping, inside: tuple[str, ...], places: Iterator[int]
) -> dict[str, Any]:
    """The declaration of one schema. ``inside``: references that are being replaced, at which a
    recursive type ends; ``places`` counts towards :data:`MOST_PLACES`."""
    _take(places, 1)
    if not isinstance(schema, Mapping):
        return {"type": "string"}
    opened = _references(schema)
    if set(opened) & set(inside):
        return {"description": f"(again a {opened[0].rsplit('/', 1)[-1]})", "type": "object"}
    inside = (*inside, *opened)
    schema = _without_reference(schema, definitions)
    notes: list[str] = []
    nullable = bool(schema.get("nullable"))

    branches = [
        _without_reference(b, definitions)
        for b in (schema.get("anyOf") or schema.get("oneOf") or ())
        if isinstance(b, Mapping)
    ]
    if branches:
        real = [b for b in branches if b.get("type") != "null"]
        nullable = nullable or len(real) < len(branches)
        if len(real) > 1:
            notes.append("one of: " + ", ".join(_name(b) for b in real))
        chosen = real[0] if real else {}
        schema = {**chosen, **{k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}}
    for part in schema.get("allOf") or ():
        if isinstance(part, Mapping):
            schema = {**_without_reference(part, definitions), **schema}

    kind = schema.get("type")
    if isinstance(kind, list):
        nullable = nullable or "null" in kind
        kinds = [k for k in kind if k != "null"]
        kind = kinds[0] if kinds else "string"
        if len(kinds) > 1:
            notes.append("one of: " + ", ".join(map(str, kinds)))
    choices = [schema["const"]] if "const" in schema else _listed(schema, "enum", object)
    _take(places, len(choices))
    if kind not in _TYPES:
        kind = _guess(schema, choices)

    result: dict[str, Any] = {}
    if choices and kind == "string":
        result["enum"] = [c for c in choices if isinstance(c, str)]
        nullable = nullable or None in choices
    elif choices:
        notes.append("one of: " + ", ".join(json.dumps(c, ensure_ascii=False) for c in choices))
    if kind == "array":
        items = schema.get("items")
        if items is None and schema.get("prefixItems"):
            notes.append("in order: " + ", ".join(_name(p) for p in schema["prefixItems"]))
            items = schema["prefixItems"][0]
        if isinstance(items, Mapping):
            result["items"] = _declared(items, definitions, inside, places)
    if kind == "object" and isinstance(schema.get("properties"), Mapping):
        result["properties"] = {
            name: _declared(inner, definitions, inside, places)
            for name, inner in schema["properties"].items()
        }
        if required := _listed(schema, "required", str):
            _take(places, len(required))
            result["required"] = required
        if schema.get("additionalProperties"):
            notes.append("further names are allowed")
    elif kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        notes.append(f"any names, each with {_name(schema['additionalProperties'])}")
    if nullable:
        result["nullable"] = True
    words = [str(schema.get("description") or "").strip()]
    words += [f"({note})" for note in notes]
    description = " ".join(w for w in words if w)
    if description:
        result["description"] = description
    result["type"] = kind
    return result


def _take(places: Iterator[int], n: int) -> None:
    """Count ``n`` more. Raises ToolError above :data:`MOST_PLACES`."""
    for _ in range(n):
        if next(places) >= MOST_PLACES:
            raise ToolError(f"has more than {MOST_PLACES:,} places when it is written out.")


def _listed(schema: Mapping[str, Any], key: str, kind: type) -> list:
    """A copy of the list under ``key``, [] if there is none. Raises ToolError if it is no list, or
    not of ``kind``."""
    value = schema.get(key) or []
    if not isinstance(value, list | tuple) or not all(isinstance(item, kind) for item in value):
        raise ToolError(f"has {str(value)[:40]} for {key!r}, which is no such list.")
    return list(value)


def _references(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """The references of a schema itself, and of the members of its ``anyOf`` or ``allOf``."""
    parts = [schema, *(schema.get("anyOf") or schema.get("oneOf") or ())]
    parts += schema.get("allOf") or ()
    found = [p["$ref"] for p in parts if isinstance(p, Mapping) and "$ref" in p]
    return tuple(r for r in found if isinstance(r, str))


def _without_reference(schema: Mapping[str, Any], definitions: Mapping) -> Mapping[str, Any]:
    """The schema with a ``$ref`` replaced by the definition that it names."""
    seen = 0
    while isinstance(schema.get("$ref"), str) and seen < 16:
        name = schema["$ref"].rsplit("/", 1)[-1]
        target = definitions.get(name, {})
        rest = {k: v for k, v in schema.items() if k != "$ref"}
        schema = {**(target if isinstance(target, Mapping) else {}), **rest}
        seen += 1
    return schema


def _name(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "anything"
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    return str(schema.get("title") or schema.get("type") or "anything")


def _guess(schema: Mapping[str, Any], choices: list[Any]) -> str:
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    kinds = {type(c) for c in choices if c is not None}
    if kinds == {int}:
        return "integer"
    if kinds and kinds <= {int, float}:
        return "number"
    return "boolean" if kinds == {bool} else "string"
