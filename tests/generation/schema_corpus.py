"""More than 200 JSON Schemas: the features of the JSON-Schema-Test-Suite that can be enforced
while decoding, and schemas of the kind people extract data with. All written for these tests."""

S, I, N, B, NULL = ({"type": t} for t in ("string", "integer", "number", "boolean", "null"))


def obj(required=None, extra=False, **properties):
    """An object schema; every property is required unless said otherwise."""
    required = list(properties) if required is None else required
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": extra,
    }


def arr(items, low=None, high=3):
    schema = {"type": "array", "items": items}
    if low is not None:
        schema["minItems"] = low
    if high is not None:
        schema["maxItems"] = high
    return schema


def text(high=8, low=0, **more):
    return {"type": "string", "maxLength": high, **({"minLength": low} if low else {}), **more}


def pattern(regex):
    return {"type": "string", "pattern": regex}


def enum(*values):
    return {"enum": list(values)}


def between(low, high, kind="integer"):
    return {"type": kind, "minimum": low, "maximum": high}


TYPES = {
    "null": NULL,
    "boolean": B,
    "integer": I,
    "number": N,
    "string": text(),
    "array of anything": {"type": "array", "maxItems": 2},
    "object of anything": {"type": "object", "maxProperties": 2},
    "string or null": {"type": ["string", "null"], "maxLength": 5},
    "integer or boolean": {"type": ["integer", "boolean"]},
    "any scalar": {"type": ["string", "integer", "boolean", "null", "number"], "maxLength": 5},
    "object or array": {"type": ["object", "array"], "maxItems": 2, "maxProperties": 2},
    "no type, minimum": {"type": "integer", "minimum": 2},
}

ENUMS = {
    "enum strings": enum("red", "green", "blue"),
    "enum mixed": enum("a", 1, True, None, 2.5),
    "enum numbers": enum(1, 2, 3),
    "enum with type": {"type": "string", "enum": ["north", "south"]},
    "enum objects": enum({"a": 1}, {"b": [1, 2]}),
    "enum arrays": enum([], [1], [[2]]),
    "enum unicode": enum("Straße", "東京", "São Paulo", "Ελλάδα"),
    "enum emoji": enum("👍", "👎", "🏳️‍🌈", "👨‍👩‍👧"),
    "enum escapes": enum('say "hi"', "back\\slash", "new\nline", "tab\t", "nul\u0000"),
    "enum slash": enum("a/b", "c\\/d"),
    "enum prefixes": enum("a", "ab", "abc", "abcd"),
    "enum empty string": enum("", " ", "  "),
    "enum null": enum(None),
    "enum booleans": enum(False, True),
    "enum long": enum(*[f"option number {i}" for i in range(60)]),
    "const string": {"const": "fixed"},
    "const number": {"const": 3.14},
    "const integer": {"const": 42},
    "const null": {"const": None},
    "const false": {"const": False},
    "const object": {"const": {"a": [1, {"b": None}]}},
    "const array": {"const": [1, "two", None]},
    "const unicode": {"const": "नमस्ते"},
    "const negative": {"const": -1},
    "const big": {"const": 9007199254740991},
    "const tiny": {"const": 1e-7},
}

NUMBERS = {
    "minimum": {"type": "integer", "minimum": 5},
    "maximum": {"type": "integer", "maximum": -5},
    "range": between(1, 10),
    "range negative": between(-20, -3),
    "range around zero": between(-7, 9),
    "range single": between(7, 7),
    "range wide": between(0, 10**9),
    "exclusive integer": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 7},
    "exclusive number": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "number range": between(0, 1, "number"),
    "number range decimals": between(-1.5, 2.75, "number"),
    "number large": between(1000.5, 99999.25, "number"),
    "number at least": {"type": "number", "minimum": 0},
    "number at most": {"type": "number", "maximum": 100},
    "number negative": {"type": "number", "exclusiveMaximum": 0, "minimum": -10},
    "multiple of 5": {"type": "integer", "multipleOf": 5},
    "multiple in range": {**between(0, 100), "multipleOf": 7},
    "both minimums": {"type": "integer", "minimum": 2, "exclusiveMinimum": 2, "maximum": 5},
    "float bounds on integer": {"type": "integer", "minimum": 1.5, "maximum": 4.5},
    "percentage": between(0, 100, "number"),
    "latitude": between(-90, 90, "number"),
    "port": between(1, 65535),
    "year": between(1900, 2100),
    "byte": between(0, 255),
    "temperature": between(-273.15, 5000, "number"),
}

STRINGS = {
    "maxLength": text(5),
    "minLength": text(6, 3),
    "exact length": text(4, 4),
    "empty": text(0),
    "length counts characters": text(2, 2),
    "pattern anchored": pattern("^[a-z]{2,5}$"),
    "pattern free": {"type": "string", "pattern": "b[0-9]", "maxLength": 12},
    "pattern start": {"type": "string", "pattern": "^ab", "maxLength": 8},
    "pattern end": {"type": "string", "pattern": "z$", "maxLength": 8},
    "pattern alternatives": pattern("^(cat|dog|bird)$"),
    "pattern optional": pattern("^colou?r$"),
    "pattern class": pattern("^[A-Z][a-z]{1,6}$"),
    "pattern negated": pattern('^[^"\\\\]{1,4}$'),
    "pattern digits": pattern("^[0-9]{3}-[0-9]{4}$"),
    "pattern escape": pattern(r"^\d{2}\.\d{2}$"),
    "pattern plate": pattern("^[A-Z]{2} [0-9]{2} [A-Z]{3}$"),
    "pattern hex colour": pattern("^#([0-9a-f]{3}|[0-9a-f]{6})$"),
    "pattern semver": pattern(r"^(0|[1-9]\d{0,3})\.(0|[1-9]\d{0,3})\.(0|[1-9]\d{0,3})$"),
    "pattern unicode": pattern("^[а-я]{1,4}$"),
    "pattern cjk": pattern("^[一-龥]{1,3}$"),
    "pattern quote": pattern('^"[a-z]{1,3}"$'),
    "pattern backslash": pattern(r"^a\\b$"),
    "pattern slug": pattern("^[a-z0-9]+(-[a-z0-9]+){0,3}$"),
    "pattern and length": {"type": "string", "pattern": "^[ab]+$", "minLength": 2, "maxLength": 6},
    "pattern iso week": pattern("^[0-9]{4}-W(0[1-9]|[1-4][0-9]|5[0-3])$"),
    "pattern iban": pattern("^[A-Z]{2}[0-9]{2}[A-Z0-9]{4}[0-9]{7}$"),
    "format date": {"type": "string", "format": "date"},
    "format time": {"type": "string", "format": "time"},
    "format date-time": {"type": "string", "format": "date-time"},
    "format uuid": {"type": "string", "format": "uuid"},
    "format email": {"type": "string", "format": "email"},
    "format ipv4": {"type": "string", "format": "ipv4"},
    "format ipv6": {"type": "string", "format": "ipv6"},
    "format hostname": {"type": "string", "format": "hostname"},
    "format duration": {"type": "string", "format": "duration"},
    "format uri": {"type": "string", "format": "uri"},
}

ARRAYS = {
    "array of strings": arr(text(4)),
    "array of integers": arr(between(0, 9)),
    "minItems": arr(B, 2),
    "exact items": arr(B, 2, 2),
    "empty array": arr(B, 0, 0),
    "matrix": arr(arr(between(0, 9), 2, 2), 2, 2),
    "cube": arr(arr(arr(B, 1, 2), 1, 2), 1, 2),
    "prefixItems": {"type": "array", "prefixItems": [B, between(0, 9)], "items": False},
    "prefixItems open": {"type": "array", "prefixItems": [B], "items": NULL, "maxItems": 3},
    "prefixItems required": {"type": "array", "prefixItems": [B, B], "minItems": 2, "items": False},
    "pair": {
        "type": "array", "prefixItems": [text(3), between(0, 9)], "minItems": 2, "maxItems": 2,
    },
    "array of objects": arr(obj(a=between(0, 9))),
    "array of enums": arr(enum("x", "y")),
    "array of unions": arr({"anyOf": [between(0, 9), NULL]}),
    "array of consts": arr({"const": 0}, 1),
    "items true": {"type": "array", "items": True, "maxItems": 1},
    "items false": {"type": "array", "items": False},
    "nested optional": arr(obj(required=[], a=arr(B, 0, 1))),
}  # fmt: skip

OBJECTS = {
    "one property": obj(a=I),
    "optional property": obj(required=[], a=B),
    "some optional": obj(required=["b"], a=B, b=B, c=B),
    "all optional": obj(required=[], a=B, b=B, c=B, d=B),
    "nested": obj(a=obj(b=obj(c=obj(d=B)))),
    "additional integers": {
        "type": "object", "additionalProperties": between(0, 9), "maxProperties": 2,
    },
    "additional beside": {
        "type": "object", "properties": {"a": B}, "required": ["a"],
        "additionalProperties": NULL, "maxProperties": 3,
    },
    "minProperties": {
        "type": "object", "properties": {"a": B, "b": B}, "minProperties": 1,
        "additionalProperties": False,
    },
    "maxProperties": {"type": "object", "additionalProperties": B, "maxProperties": 1},
    "patternProperties": {
        "type": "object", "patternProperties": {"^n[0-9]$": between(0, 9)},
        "additionalProperties": False, "maxProperties": 2,
    },
    "patternProperties two": {
        "type": "object", "patternProperties": {"^i_[a-z]$": between(0, 9), "^b_[a-z]$": B},
        "additionalProperties": False, "maxProperties": 2,
    },
    "empty object": {"type": "object", "additionalProperties": False},
    "names with spaces": obj(**{"first name": text(3), "e-mail": text(3)}),
    "names with quotes": obj(**{'say "x"': B, "back\\slash": B, "new\nline": B}),
    "names in unicode": obj(**{"größe": I, "名前": text(3), "имя": text(3), "🎈": B}),
    "names empty": obj(**{"": B}),
    "names like prefixes": obj(**{"a": B, "aa": B, "aaa": B}),
    "required without properties": {
        "type": "object", "required": ["a"], "additionalProperties": B, "maxProperties": 2,
    },
    "property true": {**obj(a=True), "maxProperties": 1},
    "many properties": obj(**{f"field_{i}": B for i in range(20)}),
    "many optional": obj(required=[], **{f"f{i}": B for i in range(12)}),
    "no additional keyword": {
        "type": "object", "properties": {"a": B}, "required": ["a"], "maxProperties": 1,
    },
}  # fmt: skip

TREE = {
    "$ref": "#/$defs/node",
    "$defs": {"node": obj(required=["v"], v=between(0, 9), next={"$ref": "#/$defs/node"})},
}
COMBINED = {
    "anyOf types": {"anyOf": [B, NULL]},
    "anyOf objects": {"anyOf": [obj(a=B), obj(b=I)]},
    "anyOf constraints": {"anyOf": [between(0, 3), between(10, 13)]},
    "anyOf with sibling": {"type": "integer", "anyOf": [{"minimum": 0, "maximum": 5},
        {"const": 9}]},
    "anyOf nested": {"anyOf": [{"anyOf": [B, NULL]}, arr(B, 1, 1)]},
    "nullable": obj(a={"anyOf": [text(3), NULL]}),
    "oneOf disjoint types": {"oneOf": [text(3), B]},
    "oneOf tagged": {
        "oneOf": [
            obj(kind={"const": "circle"}, r=between(1, 9)),
            obj(kind={"const": "square"}, side=between(1, 9)),
        ]
    },
    "oneOf consts": {"oneOf": [{"const": "a"}, {"const": "b"}]},
    "oneOf references": {
        "oneOf": [{"$ref": "#/$defs/circle"}, {"$ref": "#/$defs/flag"}],
        "$defs": {
            "circle": obj(kind={"enum": ["circle", "disc"]}, r=between(1, 9)),
            "flag": {"anyOf": [obj(kind={"const": "flag"}, up=B), NULL]},
        },
    },
    "oneOf open objects": {
        "oneOf": [
            obj(kind={"const": "a"}, n=between(1, 9), extra=B),
            obj(kind={"const": "b"}, n=text(3), extra=B),
        ]
    },
    "allOf": {"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 8}]},
    "allOf objects": {
        "allOf": [
            {"type": "object", "properties": {"a": B}, "required": ["a"]},
            {"type": "object", "properties": {"b": B}, "required": ["b"]},
        ],
        "maxProperties": 2,
    },
    "allOf one": {"allOf": [between(0, 5)]},
    "allOf with anyOf": {"allOf": [{"type": "integer"}, {"anyOf": [{"const": 1}, {"const": 2}]}]},
    "ref": {"$ref": "#/$defs/x", "$defs": {"x": between(0, 9)}},
    "ref definitions": {"$ref": "#/definitions/x", "definitions": {"x": B}},
    "ref chain": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"}, "c": B},
    },
    "ref in property": {**obj(p={"$ref": "#/$defs/x"}), "$defs": {"x": enum("u", "v")}},
    "ref in array": {**arr({"$ref": "#/$defs/x"}), "$defs": {"x": B}},
    "ref escaped": {"$ref": "#/$defs/a~1b", "$defs": {"a/b": B}},
    "ref to property": obj(a=B, b={"$ref": "#/properties/a"}),
    "ref with sibling": {"$ref": "#/$defs/x", "minimum": 5, "$defs": {"x": between(0, 9)}},
    "recursive list": TREE,
    "recursive tree": {
        "$ref": "#/$defs/t",
        "$defs": {"t": obj(v=B, children=arr({"$ref": "#/$defs/t"}, 0, 2))},
    },
    "recursive root": obj(required=["n"], n=between(0, 9), child={"$ref": "#"}),
    "recursive mutual": {
        "$ref": "#/$defs/a",
        "$defs": {
            "a": obj(b={"anyOf": [{"$ref": "#/$defs/b"}, NULL]}),
            "b": obj(a={"anyOf": [{"$ref": "#/$defs/a"}, NULL]}),
        },
    },
    "recursive expression": {
        "$ref": "#/$defs/e",
        "$defs": {
            "e": {
                "anyOf": [
                    between(0, 9),
                    obj(op=enum("+", "*"), l={"$ref": "#/$defs/e"}, r={"$ref": "#/$defs/e"}),
                ]
            }
        },
    },
    "annotations": {
        **B, "title": "t", "description": "d", "default": True, "examples": [True], "$comment": "c",
        "deprecated": False, "readOnly": True, "x-note": 1,
    },
}  # fmt: skip

NAME, MONEY, DATE = text(6, 1), between(0, 9999, "number"), pattern("^20[0-9]{2}-[01][0-9]$")
REAL = {
    "person": obj(name=NAME, age=between(0, 120), email={"type": ["string", "null"],
        "maxLength": 9}),
    "address": obj(required=["city"], street=NAME, number=I, city=NAME, zip=pattern("^[0-9]{5}$")),
    "sentiment": obj(label=enum("positive", "neutral", "negative"), score=between(0, 1, "number")),
    "entities": obj(
        entities=arr(obj(text=NAME, kind=enum("person", "place", "time"), start=I, end=I), 0, 2)
    ),
    "invoice": obj(
        number=pattern("^INV-[0-9]{4}$"),
        date=DATE,
        lines=arr(obj(item=NAME, quantity=between(1, 99), price=MONEY), 1, 2),
        total=MONEY,
        currency=enum("EUR", "USD", "JPY"),
    ),
    "recipe": obj(
        title=NAME, minutes=between(1, 600), steps=arr(NAME, 1, 2),
        ingredients=arr(obj(required=["name"], name=NAME, grams=MONEY), 1, 2),
    ),
    "weather": obj(
        city=NAME, celsius=between(-80, 60, "number"), sky=enum("clear", "clouds", "rain"),
        wind=obj(required=["speed"], speed=between(0, 200), direction=enum("N", "E", "S", "W")),
    ),
    "calendar event": obj(
        required=["title", "start"], title=NAME, start=DATE, end=DATE, attendees=arr(NAME, 0, 2),
        allDay=B,
    ),
    "search query": obj(query=NAME, limit=between(1, 100), sort={"type": ["string", "null"], "enum":
                        ["date", "rank", None]}),
    "log line": obj(level=enum("DEBUG", "INFO", "WARN", "ERROR"), code=between(100, 599),
        text=NAME),
    "geo point": obj(type={"const": "Point"}, coordinates=arr(between(-180, 180, "number"), 2, 2)),
    "geo polygon": obj(
        type={"const": "Polygon"}, coordinates=arr(arr(arr(between(-9, 9), 2, 2), 1, 2), 1, 1),
    ),
    "answer with citations": obj(answer=NAME, citations=arr(between(1, 9), 0, 2), confident=B),
    "quiz": obj(question=NAME, options=arr(NAME, 2, 2), correct=between(0, 3)),
    "flight": obj(
        code=pattern("^[A-Z]{2}[0-9]{3}$"), origin=pattern("^[A-Z]{3}$"),
        destination=pattern("^[A-Z]{3}$"), departs=pattern("^[0-2][0-9]:[0-5][0-9]$"),
    ),
    "book": obj(
        required=["title", "authors"], title=NAME, authors=arr(NAME, 1, 2),
        isbn=pattern("^97[89]-[0-9]{4}$"), year=between(1450, 2100), language=enum("de", "en",
            "hi"),
    ),
    "bank transfer": obj(sender=NAME, receiver=NAME, amount=MONEY, memo={"anyOf": [NAME, NULL]}),
    "product": obj(
        required=["sku", "price"], sku=pattern("^[A-Z0-9]{4}$"), price=MONEY, tags=arr(NAME, 0, 2),
        dimensions=obj(required=[], width=I, height=I, depth=I),
    ),
    "chess move": obj(move=pattern("^[a-h][1-8][a-h][1-8]$"), piece=enum("K", "Q", "R", "B", "N")),
    "music": obj(tempo=between(20, 300), key=pattern("^[A-G](#|b)?m?$"), notes=arr(between(0,
        127))),
    "diff": arr({"anyOf": [obj(op={"const": "add"}, path=NAME, value=NAME),
                           obj(op={"const": "remove"}, path=NAME)]}, 1, 2),
    "config": {"type": "object", "properties": {"debug": B, "workers": between(1, 64)},
               "patternProperties": {"^x_[a-z]{1,3}$": NAME}, "additionalProperties": False,
               "required": ["debug", "workers"], "maxProperties": 3},
    "translation": obj(source=pattern("^[a-z]{2}$"), target=pattern("^[a-z]{2}$"), text=NAME),
    "comment thread": {"$ref": "#/$defs/c", "$defs": {"c": obj(
        required=["by"], by=NAME, replies=arr({"$ref": "#/$defs/c"}, 0, 1))}},
    "file tree": {"$ref": "#/$defs/f", "$defs": {"f": {"anyOf": [
        obj(file=NAME, size=between(0, 999)),
        obj(folder=NAME, children=arr({"$ref": "#/$defs/f"}, 0, 2))]}}},
    "database row": obj(id=I, name=NAME, deleted_at={"anyOf": [DATE, NULL]}, flags=arr(B, 3, 3)),
    "form": obj(fields=arr({"oneOf": [
        obj(type={"const": "text"}, label=NAME),
        obj(type={"const": "check"}, label=NAME, checked=B),
        obj(type={"const": "range"}, low=between(0, 9), high=between(0, 9))]}, 1, 2)),
    "medicine": obj(drug=NAME, dose=obj(value=between(0, 1000, "number"), unit=enum("mg", "ml",
        "µg")),
                    times=arr(enum("morning", "noon", "night"), 1, 3)),
    "timetable": {"type": "object", "properties": {d: arr(between(0, 23), 0, 2) for d in
                  ("mon", "tue", "wed")}, "required": ["mon"], "additionalProperties": False},
    "palette": arr(pattern("^#[0-9A-F]{6}$"), 2, 3),
    "ocr": obj(lines=arr(obj(text=NAME, box=arr(between(0, 999), 4, 4)), 1, 2)),
    "score card": obj(scores=obj(**{k: between(1, 5) for k in ("style", "truth", "tone")}), sum=I),
    "json rpc": obj(required=["jsonrpc", "method", "id"], jsonrpc={"const": "2.0"}, method=NAME,
                    params={"type": "object", "maxProperties": 1}, id={"type": ["integer",
                        "string"],
                                                                     "maxLength": 4}),
    "package": obj(name=pattern("^[a-z][a-z0-9-]{0,6}$"), version=pattern(r"^\d\.\d\.\d$"),
                   dependencies={"type": "object", "patternProperties": {
                       "^[a-z]{1,4}$": pattern(r"^\^\d\.\d$")}, "additionalProperties": False,
                       "maxProperties": 2}),
    "movie": obj(title=NAME, year=between(1888, 2100), genres=arr(enum("drama", "comedy"), 1, 2),
                 rating={"anyOf": [between(0, 10, "number"), NULL]}),
    "multilingual": obj(de=NAME, hi=NAME, ar=NAME, zh=NAME),
    "gps track": arr(arr(between(-90, 90, "number"), 2, 2), 1, 2),
    "boolean flags": obj(**{f"flag_{c}": B for c in "abcdefgh"}),
    "plan": obj(goal=NAME, steps=arr(obj(id=between(1, 9), after=arr(between(1, 9), 0, 2)), 1, 2)),
}  # fmt: skip


def _variants():
    """Every scalar schema inside an object, an array, a union and behind a $ref."""
    scalars = {**TYPES, **NUMBERS, **STRINGS}
    chosen = [name for i, name in enumerate(scalars) if i % 3 == 0]
    for name in chosen:
        schema = scalars[name]
        yield f"{name}, in an object", obj(value=schema, ok=B)
        yield f"{name}, in an array", arr(schema, 1, 2)
    for name in chosen[::2]:
        yield f"{name}, or null", {"anyOf": [scalars[name], NULL]}
        yield f"{name}, by $ref", {"$ref": "#/$defs/it", "$defs": {"it": scalars[name]}}


CORPUS: dict[str, object] = {
    **TYPES, **ENUMS, **NUMBERS, **STRINGS, **ARRAYS, **OBJECTS, **COMBINED, **REAL,
    **dict(_variants()),
}  # fmt: skip
