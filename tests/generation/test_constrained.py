"""Constrained decoding: finished output is valid, whatever the weights."""

import enum
import json
import random
import re
from collections.abc import Callable
from typing import Annotated, Literal

import jsonschema
import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field
from schema_corpus import CORPUS

from gemma4_mlx.chat.call_reader import QUOTE, read_call
from gemma4_mlx.errors import GenerationError, SchemaError
from gemma4_mlx.generation import Constraint, Token, stream
from gemma4_mlx.generation.unions import exclusive_unions

NAMES = sorted(CORPUS)
SAMPLE = random.Random(0).sample(NAMES, 24)  # the others run with -m slow
STOPS = frozenset((1, 106, 50))


def validator(schema):
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    return kind(schema, format_checker=kind.FORMAT_CHECKER)


def generate(model, constraint, prompt=(2, 600, 601), **options):
    """(constraint, finish) of one generation on a model whose weights are noise."""
    options = {"temperature": 1.0, "seed": 0, "max_tokens": 300, **options}
    *_, finish = stream(model, list(prompt), options=options, constraint=constraint, progress=False)
    return finish


def check(model, name, seeds):
    """Generate and judge; returns how many finished."""
    schema = CORPUS[name]
    constraint = Constraint.from_schema(schema, model.tokenizer)
    done = 0
    for seed in seeds:
        finish = generate(model, constraint, seed=seed)
        assert finish.complete == (finish.reason == "stop") or constraint.complete
        if finish.reason == "stop":
            validator(schema).validate(json.loads(constraint.text))
            done += 1
        else:
            assert finish.reason == "length" and finish.generated_tokens == 300
    return done


def random_walk(constraint, vocab, rng, limit=400):
    """Follow the masks at random, without a model; True if it finished."""
    constraint.start([2], vocab, STOPS)
    for _ in range(limit):
        ids = np.flatnonzero(constraint.allowed())
        ends = [i for i in ids if i in STOPS]
        token = int(rng.choice(ends if ends and rng.random() < 0.4 else ids))
        constraint.accept(token)
        if constraint.finished or token in STOPS:
            return True
    return False


def test_every_other_schema_by_random_walks(tokenizer):
    """Through the masks alone, without a model: no dead ends, and what finishes is valid."""
    assert len(CORPUS) >= 200
    rng, finished = np.random.default_rng(7), 0
    for name in (names := NAMES[::2]):
        jsonschema.Draft202012Validator.check_schema(CORPUS[name])
        constraint = Constraint.from_schema(CORPUS[name], tokenizer)
        if random_walk(constraint, 2048, rng):
            finished += 1
            validator(CORPUS[name]).validate(json.loads(constraint.text))
    assert finished > 0.85 * len(names)


def test_a_sample_of_schemas_on_random_weights(tiny):
    done = sum(check(tiny("moe"), name, (0,)) for name in SAMPLE[:16])
    assert done > 10


def test_a_sample_of_schemas_on_the_teaching_model(teaching):
    done = sum(check(teaching, name, (0,)) for name in SAMPLE[16:24])
    assert done > 4


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_all_schemas_on_random_weights(tiny, part):
    names = NAMES[part::8]
    assert sum(check(tiny("small"), name, range(3)) for name in names) > 2 * len(names)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_all_schemas_on_the_teaching_model(teaching, part):
    names = NAMES[part::8]
    assert sum(check(teaching, name, (0,)) for name in names) > 0.6 * len(names)


class Color(enum.Enum):
    RED = 1


class Callback(BaseModel):
    call: Callable


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {"type": "string"}, "then": {"minLength": 2}}, "if"),
        ({"type": "array", "contains": {"type": "integer"}}, "contains"),
        ({"type": "object", "propertyNames": {"pattern": "^a"}}, "propertyNames"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"$dynamicRef": "#x"}, "dynamicRef"),
        ({"properties": {"a": {"anyOf": [{"not": {}}]}}}, "'not' at #/properties/a/anyOf/0"),
        ({"$defs": {"x": {"uniqueItems": True}}}, "#/$defs/x"),
        ({"type": "string", "maxlength": 3}, "did you mean 'maxLength'"),
        ({"type": "string", "format": "phone"}, "phone"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"type": "string", "pattern": r"^\W$"}, "pattern"),
        ({"type": "number", "multipleOf": 0.1}, "multipleOf"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "exclusiveMinimum"),
        ({"type": "object", "minProperties": 2, "additionalProperties": True}, "minProperties"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"const": 2**60}, "const"),
        ({"enum": [1e300]}, "enum"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
        ({"type": "strng"}, "#/type"),
        ({"type": "object", "properties": [1]}, "#/properties"),
        ({"properties": {"n": {"required": True}}}, "#/properties/n/required is True"),
        ({"required": [{}]}, "required"),
        ({"enum": [Color.RED]}, "cannot be written as JSON"),
        (Callback, "Callback has no JSON Schema"),
        ({"$ref": "#/$defs/none"}, "#?/\\$defs/none"),
        ({"$ref": "https://example.org/schema"}, "example.org"),
        ({"$ref": "#"}, "without end"),
        (
            {
                "$ref": "#/$defs/a",
                "$defs": {
                    "a": {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}
                },
            },
            "without end",
        ),
        (False, "no value"),
        ([1, 2], "object or a boolean"),
        ("{nonsense", "not JSON"),
        ("words", "neither"),
    ],
    ids=str,
)
def test_what_cannot_be_enforced_is_refused_by_name(tokenizer, schema, keyword):
    with pytest.raises(SchemaError, match=keyword if "\\" in keyword else re.escape(keyword)):
        Constraint.of(schema, tokenizer)


class Pet(BaseModel):
    name: str = Field(max_length=6)
    kind: str = Field(pattern="^(cat|dog)$")


class Person(BaseModel):
    name: str = Field(min_length=1, max_length=5)
    age: int = Field(ge=0, le=120)
    pets: list[Pet] = Field(max_length=2)
    height: float | None = Field(default=None, ge=0.5, le=2.5)


class Bag(BaseModel):
    model_config = ConfigDict(extra="allow")
    owners: list[Pet]
    sizes: dict[str, int]


def test_a_class_takes_no_further_properties_unless_it_says_so(tokenizer):
    """Nor do those inside it; what it says itself stays."""
    person, bag = (Constraint.of(of, tokenizer).schema for of in (Person, Bag))
    assert person["additionalProperties"] is person["$defs"]["Pet"]["additionalProperties"] is False
    assert bag["additionalProperties"] is True
    assert bag["properties"]["sizes"]["additionalProperties"] == {"type": "integer"}
    assert bag["$defs"]["Pet"]["additionalProperties"] is False


def test_pydantic_models_come_back_as_instances(tiny):
    model = tiny()
    constraint = Constraint.of(Person, model.tokenizer)
    for seed in range(4):
        if generate(model, constraint, seed=seed).reason == "stop":
            assert isinstance(constraint.value(), Person)
            break
    else:
        pytest.fail("no seed finished")


class Leaf(BaseModel):
    kind: Literal["leaf"] = "leaf"
    size: int = Field(ge=0, le=9)


class Stone(BaseModel):
    kind: Literal["stone", "rock"]


class Twig(BaseModel):
    kind: Literal["twig"] = "twig"
    parts: list["Thing"] = Field(max_length=2)


Plant = Annotated[Leaf | Twig, Field(discriminator="kind")]
Thing = Annotated[Plant | Stone, Field(discriminator="kind")]
Twig.model_rebuild()


class Garden(BaseModel):
    thing: Thing


def test_discriminated_unions(tokenizer):
    """Nested, recursive, with defaults that leave the property out of what is required."""
    constraint = Constraint.from_schema(Garden, tokenizer)
    rng, kinds = np.random.default_rng(2), set()
    for _ in range(40):
        if random_walk(constraint, 2048, rng):
            garden = constraint.value()
            assert isinstance(garden, Garden)
            assert json.loads(constraint.text)["thing"]["kind"] == garden.thing.kind
            kinds.add(garden.thing.kind)
    assert kinds == {"leaf", "twig", "stone", "rock"}


@pytest.mark.parametrize("a, b", [
    ({"const": 1}, {"const": 1.0}),
    ({"type": "integer"}, {"type": "number"}),
    ({"$ref": "#/$defs/x"}, {"$ref": "#/$defs/x"}),
    (
        {"type": "object", "properties": {"k": {"const": "a"}}},
        {"type": "object", "properties": {"k": {"const": "b"}}},
    ),
], ids=str)  # fmt: skip
def test_cases_that_may_meet_stay_one_of(a, b):
    schema = {"oneOf": [a, b], "$defs": {"x": {"const": 1}}}
    assert exclusive_unions(schema) == schema


CONTROL = ("<eos>", "<pad>", "a<turn|>", "<|turn>", '<|"|>', "<|tool_call>", "<channel|>")


@pytest.mark.parametrize("text", CONTROL)
def test_a_spelled_control_token_is_text(tiny, tokenizer, text):
    """In every place where a schema or a grammar can say it."""
    named = {"type": "object", "properties": {text: {"const": 1}}, "required": [text]}
    cases = [
        ({"const": text}, text), ({"enum": [text]}, text), ({"pattern": f"^{re.escape(text)}$",
        "type": "string"}, text), ({**named, "additionalProperties": False}, {text: 1}),
        (re.compile(re.escape(text) + "!"), text + "!"), (f"start: {json.dumps(text)} \"!\"",
        text + "!"),
    ]  # fmt: skip
    for schema, value in cases:
        constraint = Constraint.of(schema, tokenizer)
        assert generate(tiny(), constraint).reason == "stop"
        assert constraint.value() == value
        assert not any(map(tokenizer.is_special, constraint._tokens))


def test_a_tool_grammar_spells_them_too(tiny, tokenizer):
    text = "<eos><|turn>"
    tools = {"f": {"type": "object", "properties": {"a": {"enum": [text]}}, "required": ["a"]}}
    constraint = Constraint.from_tools(tools, tokenizer, required=True)
    generate(tiny(), constraint)
    name, arguments = read_call(
        QUOTE if piece == '<|"|>' else piece
        for piece in map(tokenizer.token_text, _first_call(constraint._tokens, tokenizer))
    )
    assert (name, arguments) == ("f", {"a": text})


def _first_call(tokens, tokenizer):
    return tokens[1 : tokens.index(tokenizer.id("<tool_call|>"))]


def test_regular_expressions_and_grammars(tiny):
    model = tiny()
    rule = Constraint.of(re.compile("[a-c]{2}-[0-9]{3}"), model.tokenizer)
    assert generate(model, rule).reason == "stop"
    assert re.fullmatch("[a-c]{2}-[0-9]{3}", rule.value())
    lark = 'start: greeting " " name "!"\ngreeting: "Hello" | "नमस्ते"\nname: /[A-Z][a-z]{2,4}/'
    rule = Constraint.of(lark, model.tokenizer)
    assert generate(model, rule).reason == "stop"
    assert re.fullmatch(r"(Hello|नमस्ते) [A-Z][a-z]{2,4}!", rule.value())
    for wrong in (re.compile(r"(a)\1"), "start: missing"):
        with pytest.raises(SchemaError):
            Constraint.of(wrong, model.tokenizer)


def test_unfinished_output_is_seen_as_such(tiny):
    model = tiny()
    rule = Constraint.of({"type": "string", "minLength": 50}, model.tokenizer)
    finish = generate(model, rule, max_tokens=5)
    assert (finish.reason, finish.complete) == ("length", False)
    with pytest.raises(GenerationError, match="unfinished"):
        rule.value()


def test_greedy_and_sampled_and_any_other_option(tiny):
    model = tiny()
    schema = {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 2}
    rule = Constraint.of(schema, model.tokenizer)
    for options in (
        {"temperature": 0.0},
        {"temperature": 2.0, "top_k": 2},
        {"top_p": 0.01},
        {"min_p": 0.9},
        {"repetition_penalty": 2.0},
        {"suppress_tokens": [500]},
        {"ignore_eos": True},
    ):
        finish = generate(model, rule, **options)
        assert finish.reason == "stop" and finish.complete
        validator(schema).validate(rule.value())


def test_thinking_comes_first_if_wished(tiny, tokenizer):
    rule = Constraint.of({"type": "boolean"}, tokenizer, thinking=True)
    rule.start([2], 2048, STOPS)
    assert rule.allowed()[100] and not rule.allowed()[106]
    rule.accept(100)
    inside = rule.allowed()
    assert inside[600] and inside[101] and not inside[[1, 50, 106, 100, 48]].any()
    for token in (600, 601, 101):
        rule.accept(token)
    assert not rule.allowed()[100] and not rule.complete
    for token in tokenizer.encode("true"):
        rule.accept(token)
    assert rule.complete and rule.value() is True
    rule.start([2], 2048, STOPS)  # once the answer has begun, it is too late to think
    rule.accept(tokenizer.encode("true")[0])
    assert not rule.allowed()[100]
    # A channel that the prompt opened (after a tool's answer) is left to its end.
    rule = Constraint.of({"type": "boolean"}, tokenizer)
    rule.start([2, 100, 600], 2048, STOPS)
    assert rule.allowed()[600]
    rule.start([2, 100, 600, 101], 2048, STOPS)
    assert not rule.allowed()[600] and not rule.allowed()[100]


# Tool calls

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"enum": ["c", "f"]},
    },
    "required": ["city"],
}
NESTED = {
    "type": "object",
    "properties": {
        "Zeta": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
        "alpha": {
            "type": "object",
            "properties": {"s": {"type": ["string", "null"]}, "t": {"$ref": "#/$defs/tree"}},
        },
    },
    "required": ["Zeta", "alpha"],
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {"v": {"type": "number"}, "next": {"$ref": "#/$defs/tree"}},
            "required": ["v"],
        }
    },
}
TOOLS = {"get_weather": WEATHER, "no.args-x": {}, "nested": NESTED, "free": {
    "type": "object", "properties": {"x": {}}, "required": ["x"]}}  # fmt: skip


def accepted(constraint, text):
    constraint.start([2], 2048, STOPS)
    for token in constraint.tokenizer.encode(text, allow_special=True):
        if not constraint.allowed()[token]:
            return False
        constraint.accept(token)
    return constraint.complete


def call(body):
    return "<|tool_call>call:" + body.replace("`", '<|"|>') + "<tool_call|>"


GOOD_CALLS = [
    call("get_weather{city:`Paris`}"),
    call("get_weather{city:`{a}, \"b\"\nकाठमांडू`,days:3,unit:`c`}"),
    call("get_weather{city:``}"),
    call("no.args-x{}") + call("get_weather{city:`x`,unit:`f`}"),
    call("nested{alpha:{},Zeta:[true]}"),
    call("nested{alpha:{s:null,t:{next:{v:-1.5},v:2}},Zeta:[true,false]}"),
    call("free{x:{a:[1,true,null,`x`,{b:`y`}]}}"),
]  # fmt: skip
BAD_CALLS = [
    call("get_weather{days:3}"),
    call("get_weather{city:`Paris`,days:10}"),
    call("get_weather{city:`Paris`,unit:`k`}"),
    call("get_weather{unit:`c`,city:`Paris`}"),
    call("unknown{}"),
    call("nested{Zeta:[true],alpha:{}}"),
    call("nested{alpha:{},Zeta:[]}"),
    call("nested{alpha:{s:1},Zeta:[true]}"),
    call("nested{alpha:{other:null},Zeta:[true]}"),
    call("nested{alpha:`x`,Zeta:[true]}"),
    call("get_weather{city:Paris}"),
    "<|tool_call>call:no.args-x{}",
]


def test_tool_calls(tokenizer):
    only = Constraint.from_tools(TOOLS, tokenizer, required=True)
    mixed = Constraint.from_tools(TOOLS, tokenizer)
    for text in GOOD_CALLS:
        assert accepted(only, text) and accepted(mixed, text), text
        assert accepted(mixed, "First a word. " + text) and not accepted(only, "A " + text)
    for text in BAD_CALLS:
        assert not accepted(only, text) and not accepted(mixed, text), text
    assert accepted(mixed, "No tool is needed.") and not accepted(only, "")
    for tools in ({}, {"a b": {}}, {"f": {"type": "string"}}):
        with pytest.raises(SchemaError):
            Constraint.from_tools(tools, tokenizer)


def test_tool_calls_with_further_names(tokenizer):
    """Names that are not declared stand behind the declared ones, which keep their types."""
    schema = {
        "properties": {"a": {"type": "boolean"}, "b/c é": {"type": "null"}},
        "required": ["a"],
        "additionalProperties": {"enum": ["x"]},
    }
    constraint = Constraint.from_tools({"f": schema}, tokenizer, required=True)

    def allows(text):
        constraint.start([2], 2048, STOPS)
        for token in tokenizer.encode(text, allow_special=True):
            if not constraint.allowed()[token]:
                return False
            constraint.accept(token)
        return constraint.complete

    def call(body):
        return f"<|tool_call>call:f{{{body}}}<tool_call|>"

    for body in ("a:true", "a:true,b/c é:null", 'a:false,z:<|"|>x<|"|>,aa:<|"|>x<|"|>'):
        assert allows(call(body)), body
    for body in ("a:1", "b/c é:null", 'a:true,a:<|"|>x<|"|>', "a:true,z:1"):
        assert not allows(call(body)), body


def test_tool_calls_from_noise(tiny):
    model = tiny("moe")
    tools = {"light": {"type": "object", "properties": {"on": {"type": "boolean"}}}}
    rule = Constraint.from_tools(tools, model.tokenizer, required=True)
    events = list(
        stream(
            model,
            [2, 700],
            constraint=rule,
            options={"temperature": 1.0, "seed": 1, "max_tokens": 60},
        )
    )
    text = model.tokenizer.decode([e.id for e in events if isinstance(e, Token) and not e.stop])
    assert re.fullmatch(r"(<\|tool_call>call:light\{(on:(true|false))?\}<tool_call\|>)+", text)
