"""A grammar for Gemma 4's tool calls.

    <|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:3}<tool_call|>

Keys are bare and sorted as the chat template sorts them, strings stand between ``<|"|>`` tokens
without escapes, everything else is written as in JSON. The grammar admits only declared tools, and
for each its argument names, types, enumerations and numeric ranges. Patterns, formats and lengths
are not enforced: the arguments are validated before the tool runs (:mod:`gemma4_mlx.chat.tools`).
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from ..errors import SchemaError

_NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
#: STRING: any text that does not spell ``<|"|>`` in plain characters, which a reader could take for
#: the end of the string. BARE: an unquoted key.
_TERMINALS = r"""
STRING: /(?s:.*)/ & ~/(?s:.*)<\|"\|>(?s:.*)/
BARE: /[^\s{}\[\]:,<>"']+/
quoted: <|"|> STRING <|"|> | <|"|> <|"|>
anything: quoted | number | "true" | "false" | "null" | free_list | free_map
free_list: "[" (anything ("," anything)*)? "]"
free_map: "{" (BARE ":" anything ("," BARE ":" anything)*)? "}"
number: %json {"type": "number"}
"""


def tool_call_grammar(tools: Mapping[str, Any], *, required: bool = False) -> str:
    """A Lark grammar of answers that call these tools.

    Args:
        tools: name -> JSON Schema of the arguments (an object schema; ``{}`` for none).
        required: True: one call or more and nothing else; False: any text, then any number of
            calls.

    Raises:
        SchemaError: no tools, or an argument schema that is not an object's.
    """
    if not tools:
        raise SchemaError("A grammar of tool calls needs at least one tool.")
    rules = _Rules()
    calls = []
    for name, schema in tools.items():
        if not re.fullmatch(r"[\w.-]+", name):
            raise SchemaError(f"{name!r} is no tool name: letters, digits, '_', '-' and '.' only.")
        body = rules.arguments(schema or {}, name)
        calls.append(f"{json.dumps('call:' + name)} {body}")
    start = "call+" if required else "TEXT? call*"
    text = "" if required else "TEXT: /(?s:.+)/\n"
    return (
        f"start: {start}\n{text}call: <|tool_call> ({' | '.join(calls)}) <tool_call|>\n"
        + "".join(f"{name}: {body}\n" for name, body in rules.named.items())
        + _TERMINALS
    )


def _in_regex(name: str) -> str:
    """The name escaped for a Lark regular expression: all but ASCII letters and digits by code."""
    return "".join(c if c.isalnum() and c.isascii() else f"\\u{{{ord(c):x}}}" for c in name)


class _Rules:
    """Turns argument schemas into grammar rules; equal bodies share a rule."""

    def __init__(self):
        self.named: dict[str, str] = {}
        self._refs: dict[str, str] = {}

    def _rule(self, body: str) -> str:
        for name, known in self.named.items():
            if known == body:
                return name
        name = f"rule_{len(self.named)}"
        self.named[name] = body
        return name

    def arguments(self, schema: Mapping, tool: str) -> str:
        if schema.get("type", "object") != "object":
            raise SchemaError(f"The arguments of {tool!r} must be an object schema.")
        self._root, self._refs = schema, {}
        return self._object(schema)

    def value(self, schema: Any) -> str:
        """The name of a rule, or an expression, that matches one value of the schema."""
        if not isinstance(schema, Mapping) or not schema:
            return "anything"
        if "$ref" in schema:
            return self._reference(schema["$ref"])
        if "const" in schema:
            return self._literal(schema["const"])
        if "enum" in schema:
            return self._rule(" | ".join(self._literal(v) for v in schema["enum"]))
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._rule(" | ".join(self.value(s) for s in schema[key]))
        if len(schema.get("allOf", ())) == 1:
            return self.value(schema["allOf"][0])
        kinds = schema.get("type", "any")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        rules = [self._of_type(str(kind).lower(), schema) for kind in kinds]
        return rules[0] if len(rules) == 1 else self._rule(" | ".join(rules))

    def _of_type(self, kind: str, schema: Mapping) -> str:
        if kind == "string":
            return "quoted"
        if kind in ("integer", "number"):
            bounds = {k: schema[k] for k in _NUMERIC if k in schema}
            return self._rule(f"%json {json.dumps({'type': kind, **bounds})}")
        if kind == "boolean":
            return self._rule('"true" | "false"')
        if kind == "null":
            return '"null"'
        if kind == "array":
            return self._array(schema)
        if kind == "object":
            return self._object(schema)
        return "anything"

    def _array(self, schema: Mapping) -> str:
        item = self.value(schema.get("items", {}))
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        if high == 0:
            return self._rule('"[" "]"')
        more = f"{{{max(0, low - 1)},{'' if high is None else high - 1}}}"
        inner = f'{item} ("," {item}){more}'
        return self._rule(f'"[" ({inner}){"" if low else "?"} "]"')

    def _object(self, schema: Mapping) -> str:
        """``{a:...,b:...}`` with the keys in the template's order; optional ones may be missing."""
        properties, extra = schema.get("properties"), schema.get("additionalProperties")
        if not properties:
            return "free_map" if extra else self._rule('"{" "}"')
        names = sorted(properties, key=str.lower)
        needed = set(schema.get("required", ()))
        pairs = {n: f"{json.dumps(f'{n}:')} {self.value(properties[n])}" for n in names}
        # after[i]: what may follow once a pair has been written and names[i:] are still to come.
        rest = self._rule(f'("," {self._extra(names, extra)})*') if extra else '""'
        after = {len(names): rest}
        for i in range(len(names) - 1, -1, -1):
            pair = f'"," {pairs[names[i]]}'
            rest = self._rule(f"{pair if names[i] in needed else f'({pair})?'} {rest}")
            after[i] = rest
        starts = []
        for i, name in enumerate(names):
            starts.append(f"{pairs[name]} {after[i + 1]}")
            if name in needed:
                break
        else:
            if extra:
                starts.append(f"{self._extra(names, extra)} {after[len(names)]}")
            starts.append('""')
        return self._rule(f'"{{" ({" | ".join(starts)}) "}}"')

    def _extra(self, names: list[str], schema: Any) -> str:
        """A pair whose name is none of ``names``; ``schema`` is that of its value."""
        others = "|".join(map(_in_regex, names))
        body = f"BARE & ~/{others}/"
        terminal = next((key for key, known in self.named.items() if known == body), None)
        if terminal is None:
            terminal = f"NAME_{len(self.named)}"
            self.named[terminal] = body
        return f'{terminal} ":" {self.value(schema if isinstance(schema, Mapping) else {})}'

    def _literal(self, value: Any) -> str:
        if isinstance(value, str):
            return f'<|"|> {json.dumps(value)} <|"|>' if value else '<|"|> <|"|>'
        if isinstance(value, list):
            inner = ' "," '.join(self._literal(v) for v in value)
            return f'"[" {inner} "]"'
        if isinstance(value, Mapping):
            pairs = (f"{json.dumps(f'{k}:')} {self._literal(value[k])}" for k in sorted(value))
            return '"{" ' + ' "," '.join(pairs) + ' "}"'
        return json.dumps(json.dumps(value))

    def _reference(self, ref: str) -> str:
        if ref in self._refs:
            return self._refs[ref]
        node: Any = self._root
        for part in ref.removeprefix("#").split("/")[1:]:
            node = node.get(part.replace("~1", "/").replace("~0", "~")) if node else None
        if not ref.startswith("#") or node is None:
            raise SchemaError(f"The reference {ref!r} leads nowhere in the tool's arguments.")
        name = self._refs[ref] = f"rule_{len(self.named)}"
        self.named[name] = ""  # reserved before value(), for a schema that refers to itself
        self.named[name] = self.value(node)
        return name
