"""Rewrites ``oneOf`` as ``anyOf``, which can be enforced, where its cases exclude one another.

pydantic writes a discriminated union (``Field(discriminator="kind")``) as a ``oneOf`` of
references beside a ``discriminator``. Where no value can satisfy two cases, "one of" and "any of"
are the same. Other ``oneOf`` are left as they are.
"""

import copy
import json
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

_KINDS = {"null", "boolean", "integer", "number", "string", "array", "object"}


def exclusive_unions(schema: Any) -> Any:
    """A copy of the schema in which ``oneOf`` is ``anyOf`` where its cases exclude one another.

    In a union with a ``discriminator``, that property becomes required in each case: a reader needs
    it to tell the cases apart, and pydantic refuses a value without it.
    """
    root = copy.deepcopy(schema)
    for node in list(_nodes(root)):
        cases = node.get("oneOf")
        if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
            continue
        discriminator = node.get("discriminator")
        name = discriminator.get("propertyName") if isinstance(discriminator, Mapping) else None
        for case in cases if isinstance(name, str) else ():
            _require(case, name, root)
        if all(_excluded(a, b, root) for a, b in combinations(cases, 2)):
            del node["oneOf"]
            if "anyOf" in node:
                node["allOf"] = [*node.get("allOf", ()), {"anyOf": cases}]
            else:
                node["anyOf"] = cases
    return root


def _nodes(value: Any) -> Iterator[dict]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield from _nodes(inner)


def _resolved(schema: Any, root: Any) -> dict:
    """The schema itself, or the one that its ``$ref`` leads to; {} if that does not exist."""
    for _ in range(16):
        if not isinstance(schema, Mapping):
            return {}
        if not isinstance(schema.get("$ref"), str):
            return schema
        node: Any = root
        for part in schema["$ref"].removeprefix("#").split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            node = node.get(part) if isinstance(node, Mapping) else None
        schema = node
    return {}


def _cases(schema: Any, root: Any, depth: int = 0) -> list[dict]:
    """The schema itself, or the cases of the union that it is."""
    schema = _resolved(schema, root)
    for key in ("oneOf", "anyOf"):
        if isinstance(schema.get(key), list) and depth < 16:
            return [case for inner in schema[key] for case in _cases(inner, root, depth + 1)]
    return [schema]


def _require(case: Any, name: str, root: Any) -> None:
    for schema in _cases(case, root):
        required = schema.get("required", [])
        if name in _properties(schema) and isinstance(required, list) and name not in required:
            schema["required"] = [*required, name]


def _properties(schema: Mapping) -> Mapping:
    found = schema.get("properties")
    return found if isinstance(found, Mapping) else {}


def _excluded(a: Any, b: Any, root: Any) -> bool:
    """Whether certainly no value satisfies both; False if that cannot be seen."""
    return all(_differ(x, y, root) for x in _cases(a, root) for y in _cases(b, root))


def _differ(a: Mapping, b: Mapping, root: Any) -> bool:
    if not _kinds(a) & _kinds(b):
        return True
    if (x := _values(a)) is not None and (y := _values(b)) is not None and not x & y:
        return True
    if _kinds(a) & _kinds(b) != {"object"}:
        return False
    common = set(map(str, a.get("required") or ())) & set(map(str, b.get("required") or ()))
    for name in common & _properties(a).keys() & _properties(b).keys():
        x, y = (_values(_resolved(_properties(case)[name], root)) for case in (a, b))
        if x is not None and y is not None and not x & y:
            return True
    return False


def _values(schema: Mapping) -> set[str] | None:
    """The values that a schema lists, as JSON; None if it lists none."""
    listed = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(listed, list):
        return None
    # In JSON Schema, 1.0 equals 1.
    whole = (int(v) if isinstance(v, float) and v.is_integer() else v for v in listed)
    return {json.dumps(value, default=str, sort_keys=True) for value in whole}


def _kinds(schema: Mapping) -> set[str]:
    """The types that a value may have; "number" includes "integer"."""
    kinds = schema.get("type")
    if kinds is None:
        return set(_KINDS)
    found = {str(kind) for kind in (kinds if isinstance(kinds, list) else [kinds])}
    return found | {"integer"} if "number" in found else found
