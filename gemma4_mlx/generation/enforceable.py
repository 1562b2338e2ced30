"""Which JSON Schemas can be enforced token by token, and a clear refusal of the others.

llguidance refuses keywords that it knows and does not implement, but it ignores unknown ones, and
a few combinations it enforces wrongly (found by generating random outputs and validating them with
``jsonschema``). So the schema is checked first: every keyword must be one that is enforced or a
mere annotation, else :class:`SchemaError` names it and its place.
"""

import difflib
import math
import re
from typing import Any

from ..errors import SchemaError
from .unions import exclusive_unions

#: Keywords whose value is one schema, a list of schemas, and a map of names to schemas.
_SCHEMA = {"additionalProperties", "items"}
_SCHEMAS = {"anyOf", "oneOf", "allOf", "prefixItems"}
_NAMED_SCHEMAS = {"properties", "patternProperties", "$defs", "definitions"}
#: Keywords with plain values that are enforced.
_ENFORCED = {
    "type", "enum", "const", "$ref", "required", "pattern", "format", "minLength", "maxLength",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems",
    "maxItems", "minProperties", "maxProperties",
}  # fmt: skip
#: Keywords that assert nothing. ``discriminator`` is what pydantic writes beside ``oneOf``.
_ANNOTATIONS = {
    "$schema", "$id", "$comment", "$anchor", "title", "description", "default", "examples",
    "example", "deprecated", "readOnly", "writeOnly", "contentEncoding", "contentMediaType",
    "discriminator",
}  # fmt: skip
#: Keywords of JSON Schema that cannot be enforced, with what to do instead where there is a way.
_REFUSED = {
    "not": "",
    "if": "write the cases with anyOf",
    "then": "write the cases with anyOf",
    "else": "write the cases with anyOf",
    "uniqueItems": "check the result instead, or use an object with boolean properties",
    "contains": "describe all elements with items or prefixItems",
    "minContains": "",
    "maxContains": "",
    "propertyNames": "use patternProperties with additionalProperties: false",
    "dependentRequired": "write the cases with anyOf",
    "dependentSchemas": "write the cases with anyOf",
    "dependencies": "write the cases with anyOf",
    "unevaluatedProperties": "use additionalProperties",
    "unevaluatedItems": "use items",
    "additionalItems": "use prefixItems and items",
    "$dynamicRef": "use $ref",
    "$dynamicAnchor": "use $ref",
    "$recursiveRef": "use $ref",
    "$recursiveAnchor": "use $ref",
    "contentSchema": "",
}
_TYPES = {"null", "boolean", "integer", "number", "string", "array", "object"}
#: Larger integers are not exact in readers that store JSON numbers as float64, which most do.
_EXACT = 2**53
_YEAR = r"([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    rf"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    rf"|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_TIME = (
    r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
#: Formats as patterns of our own: llguidance's admit second 60 in every minute.
_FORMATS = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}T{_TIME}$"}
_KNOWN = _SCHEMA | _SCHEMAS | _NAMED_SCHEMAS | _ENFORCED | _ANNOTATIONS


def checked_schema(schema: Any) -> Any:
    """The schema as it goes to llguidance.

    Raises:
        SchemaError: it is no JSON Schema, or a keyword cannot be enforced.
    """
    if schema is False:
        raise SchemaError("The schema `false` admits no value at all.")
    result = _checked(exclusive_unions(schema), "#")
    if isinstance(result, dict):
        _check_finite(result)
    return result


def _checked(schema: Any, where: str) -> Any:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict):
        raise SchemaError(f"A schema is an object or a boolean; {where} is {schema!r:.80}.")
    result = {}
    for key, value in schema.items():
        if key == "uniqueItems" and value is False:
            continue
        if key in _REFUSED:
            hint = f": {_REFUSED[key]}" if _REFUSED[key] else ""
            raise SchemaError(f"{key!r} at {where} cannot be enforced while decoding{hint}.")
        if key not in _KNOWN and not str(key).startswith("x-"):
            near = difflib.get_close_matches(str(key), sorted(_KNOWN), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SchemaError(
                f"{key!r} at {where} is no keyword that is enforced{hint} (notes of your own "
                "may begin with x-)."
            )
        if key in _ANNOTATIONS or key not in _KNOWN:
            continue
        here = f"{where}/{key}"
        if key in _SCHEMA:
            value = _checked(value, here)
        elif key in _SCHEMAS:
            value = [_checked(v, f"{here}/{i}") for i, v in enumerate(_typed(value, list, here))]
        elif key in _NAMED_SCHEMAS:
            named = _typed(value, dict, here)
            value = {name: _checked(v, f"{here}/{name}") for name, v in named.items()}
        elif key == "type":
            _check_type(value, here)
        result[key] = value
    _check_numbers(result, where)
    _check_counts(result, where)
    return _check_strings(result, where)


def _check_numbers(schema: dict, where: str) -> None:
    for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "const"):
        _check_exact(schema.get(key), f"{where}/{key}")
    for i, value in enumerate(_typed(schema.get("enum", []), list, f"{where}/enum")):
        _check_exact(value, f"{where}/enum/{i}")
    step = schema.get("multipleOf")
    if isinstance(step, float) and not step.is_integer() and math.frexp(step)[0] != 0.5:
        raise SchemaError(
            f"'multipleOf' {step} at {where} cannot be enforced: it has no exact binary value; "
            "use whole numbers (cents, not euros) or a pattern."
        )
    if schema.get("type") == "integer":
        return
    for key, far in (("exclusiveMinimum", "aximum"), ("exclusiveMaximum", "inimum")):
        bound = schema.get(key)
        if not _number(bound) or not float(bound).is_integer():
            continue
        ends = [schema[k] for k in schema if k.endswith(far) and _number(schema[k])]
        if any(abs(end - bound) < 1 for end in ends):
            raise SchemaError(
                f"{key!r} {bound} at {where} cannot be enforced with the other bound less than 1 "
                f"away; use {key.replace('exclusive', '').lower()!r}."
            )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_exact(value: Any, where: str) -> None:
    if isinstance(value, dict | list):
        for v in value.values() if isinstance(value, dict) else value:
            _check_exact(v, where)
    elif _number(value) and abs(value) > _EXACT:
        raise SchemaError(f"{where} holds {value}: numbers beyond 2**53 are not exact in JSON.")


def _check_counts(schema: dict, where: str) -> None:
    """Check ``minProperties``. A model may write the same free name twice, which counts once, so a
    minimum of them cannot be guaranteed."""
    names = _typed(schema.get("required", []), list, f"{where}/required")
    low, required = schema.get("minProperties", 0), len(set(map(str, names)))
    closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    if isinstance(low, int) and low - required >= 2 and not closed:
        raise SchemaError(
            f"'minProperties' {low} at {where} cannot be enforced for names that are not given; "
            "list the properties, or ask for at most one more than the required ones."
        )


def _check_strings(schema: dict, where: str) -> dict:
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and (found := re.search(r"(?<!\\)(?:\\\\)*(\\[WD])", pattern)):
        raise SchemaError(
            f"'pattern' at {where} holds {found.group(1)}, which validators read differently; "
            "write the characters out, as in [^0-9]."
        )
    form = schema.get("format")
    if form == "hostname":
        schema["maxLength"] = min(253, schema.get("maxLength", 253))
    if form in _FORMATS and schema.get("type", "string") == "string":
        del schema["format"]
        if pattern is not None:
            schema["allOf"] = [*schema.get("allOf", []), {"pattern": pattern}]
        schema["pattern"] = _FORMATS[form]
    return schema


def _check_finite(root: dict) -> None:
    """Raise SchemaError for a recursive schema that only infinitely nested values satisfy."""
    finite: set[int] = set()  # ids of schemas known to have a finite value

    def target(ref: str) -> Any:
        node: Any = root
        for part in ref.removeprefix("#").split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            node = node[int(part)] if isinstance(node, list) else node.get(part)
        return node

    def ends(schema: Any) -> bool:
        if not isinstance(schema, dict) or id(schema) in finite:
            return True
        parts = [ends(s) for s in schema.get("allOf", [])]
        for key in ("anyOf", "oneOf"):
            if key in schema:
                cases = [ends(s) for s in schema[key]]  # a list: every case must be visited
                parts.append(any(cases))
        if schema.get("$ref", "").startswith("#"):
            there = target(schema["$ref"])
            parts.append(not isinstance(there, dict) or id(there) in finite)
        kinds = schema.get("type")
        kinds = set(kinds if isinstance(kinds, list) else [kinds] if kinds else ())
        others = kinds - {"object", "array"} or (not kinds and "$ref" not in schema)
        named = schema.get("properties", {})
        inner = {name: ends(s) for name, s in named.items()}
        items = [ends(s) for s in (*schema.get("prefixItems", ()), schema.get("items", True))]
        if not others and kinds == {"object"}:
            parts += [inner.get(name, True) for name in schema.get("required", ())]
        if not others and kinds == {"array"} and schema.get("minItems", 0) > 0:
            parts += items[: schema["minItems"]]
        for name in ("$defs", "definitions"):
            for definition in schema.get(name, {}).values():
                ends(definition)
        if all(parts):
            finite.add(id(schema))
        return id(schema) in finite

    try:
        before = -1
        while before < len(finite):
            before = len(finite)
            done = ends(root)
    except (AttributeError, KeyError, IndexError, ValueError, TypeError):
        return  # a reference that leads nowhere, which llguidance reports
    if not done:
        raise SchemaError("The schema refers to itself without end: no finite value satisfies it.")


def _check_type(value: Any, where: str) -> None:
    for name in value if isinstance(value, list) else [value]:
        if not isinstance(name, str) or name not in _TYPES:
            raise SchemaError(
                f"{where} is {value!r:.80}, expected one of {', '.join(sorted(_TYPES))}."
            )


def _typed(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        name = "a list" if kind is list else "an object"
        raise SchemaError(f"{where} is {value!r:.80}, expected {name}.")
    return value
