"""Output constrained to a JSON Schema, pydantic class, regular expression or grammar.

Before every token llguidance (https://github.com/guidance-ai/llguidance) says which tokens can
continue the output so that the grammar can still be satisfied; all others get probability zero. So
*finished* output satisfies the schema whatever the model's weights. Output cut off by
``max_tokens`` may not: its Finish event has reason "length" and ``complete=False``.

A schema that llguidance cannot enforce in full is refused before generation; see
:mod:`.enforceable`.
"""

import json
import re
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import GenerationError, SchemaError
from .enforceable import checked_schema
from .guides import Allowed

#: Only the spelling of JSON that models write most: with free white space, a model may write
#: blanks until max_tokens.
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

_compiled: "weakref.WeakKeyDictionary[Any, dict]" = weakref.WeakKeyDictionary()


class _Vocabulary:
    """A tokenizer in the form llguidance takes: the bytes of each id, and an encode function.

    llguidance can also read a ``tokenizer.json`` itself, but would then encode the *text* ``<eos>``
    as the control token, which no grammar admits.
    """

    def __init__(self, tokenizer, stops: frozenset[int]):
        self._tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = min(stops), tokenizer.bos_token_id
        self.tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.special_ids.values())

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8"))


def guidance_tokenizer(tokenizer, vocab_size: int, stops: frozenset[int]):
    """llguidance's tokenizer, built once per tokenizer (a second or two for 262,144 entries)."""
    from llguidance import LLTokenizer, TokenizerWrapper

    known = _compiled.setdefault(tokenizer, {})
    key = (vocab_size, stops)
    if key not in known:
        wrapped = TokenizerWrapper(_Vocabulary(tokenizer, stops))
        known[key] = LLTokenizer(wrapped, n_vocab=vocab_size, eos_token=sorted(stops))
    return known[key]


class Constraint:
    """A guide that lets only text of a grammar be generated.

    Made by :meth:`from_schema`, :meth:`from_regex`, :meth:`from_grammar`, or :meth:`of`, which
    tells them apart. One constraint serves one generation at a time and can be used again.

    Args:
        grammar: an llguidance grammar.
        tokenizer: the model's :class:`~gemma4_mlx.processing.tokenizer.Tokenizer`.
        thinking: let the model think, unconstrained, before the constrained output. A thinking
            channel that the prompt already opened may be finished in any case.
        schema: the JSON Schema behind the grammar, None for other grammars.
        model: the pydantic class behind the schema.

    Raises:
        SchemaError: llguidance does not accept the grammar.
    """

    def __init__(
        self,
        grammar: str,
        tokenizer,
        *,
        thinking: bool = False,
        schema: Any = None,
        model: type | None = None,
    ):
        from llguidance import LLMatcher

        self.grammar, self.tokenizer, self.thinking = grammar, tokenizer, thinking
        self.schema, self.model = schema, model
        self._opens = tokenizer.id("<|channel>")
        self._closes = tokenizer.id("<channel|>")
        stops = frozenset(tokenizer.eos_token_ids)
        checker = guidance_tokenizer(tokenizer, tokenizer.vocab_size, stops)
        failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, checker)
        if failed:
            kind = "schema" if schema is not None else "grammar"
            raise SchemaError(f"This {kind} cannot be enforced: {_reason(messages[0])}")
        self._matcher = None

    @classmethod
    def of(cls, what, tokenizer, *, thinking: bool = False) -> "Constraint":
        """From a pydantic class, a JSON Schema (dict, bool or JSON text), a compiled regular
        expression (``re.compile(...)``) or a Lark grammar (text with a ``start:`` rule).

        Raises SchemaError for a text that is neither, or a schema that cannot be enforced.
        """
        if isinstance(what, Constraint):
            return what
        if isinstance(what, re.Pattern):
            return cls.from_regex(what.pattern, tokenizer, thinking=thinking)
        if isinstance(what, str) and not what.lstrip().startswith(("{", "true", "false")):
            if re.search(r"^\s*start\s*:", what, re.MULTILINE):
                return cls.from_grammar(what, tokenizer, thinking=thinking)
            raise SchemaError(
                "This text is neither a JSON Schema nor a Lark grammar with a `start:` rule; "
                "give a regular expression as re.compile(...)."
            )
        return cls.from_schema(what, tokenizer, thinking=thinking)

    @classmethod
    def from_schema(cls, schema, tokenizer, *, thinking: bool = False) -> "Constraint":
        """JSON that satisfies a JSON Schema (dict, bool or JSON text) or a pydantic class.

        Raises:
            SchemaError: it is no schema, holds a value that JSON cannot, or uses a keyword that
                cannot be enforced; the message names the keyword and its place in the schema.
        """
        from llguidance import LLMatcher

        model = None
        if isinstance(schema, type) and hasattr(schema, "model_json_schema"):
            from pydantic.errors import PydanticUserError

            model = schema
            try:
                schema = _closed(model.model_json_schema())
            except PydanticUserError as error:
                raise SchemaError(
                    f"{model.__name__} has no JSON Schema: {str(error).splitlines()[0]}"
                ) from error
        elif isinstance(schema, str | bytes):
            try:
                schema = json.loads(schema)
            except ValueError as error:
                raise SchemaError(f"The schema is not JSON: {error}") from None
        schema = checked_schema(schema)
        try:
            text = json.dumps(schema)
        except TypeError as error:
            raise SchemaError(f"The schema cannot be written as JSON: {error}.") from error
        grammar = LLMatcher.grammar_from_json_schema(text, overrides=_JSON_STYLE)
        return cls(grammar, tokenizer, thinking=thinking, schema=schema, model=model)

    @classmethod
    def from_regex(cls, pattern: str, tokenizer, *, thinking: bool = False) -> "Constraint":
        """Text that matches a regular expression as a whole (Rust's syntax: no look-around, no
        back-references). Raises SchemaError."""
        from llguidance import LLMatcher

        return cls(LLMatcher.grammar_from_regex(pattern), tokenizer, thinking=thinking)

    @classmethod
    def from_grammar(cls, lark: str, tokenizer, *, thinking: bool = False) -> "Constraint":
        """Text of a Lark grammar as llguidance reads it; ``<|name>`` stands for a control token.
        Raises SchemaError."""
        from llguidance import LLMatcher

        return cls(LLMatcher.grammar_from_lark(lark), tokenizer, thinking=thinking)

    @classmethod
    def from_tools(
        cls, tools: Mapping[str, Any], tokenizer, *, required: bool = False, thinking: bool = False
    ) -> "Constraint":
        """Text and calls of declared tools, or with ``required`` nothing but calls; see
        :func:`.call_grammar.tool_call_grammar`.

        Raises SchemaError for no tools, and for arguments whose schema cannot be enforced.
        """
        from .call_grammar import tool_call_grammar

        grammar = tool_call_grammar(tools, required=required)
        return cls.from_grammar(grammar, tokenizer, thinking=thinking)

    # As a guide

    def start(self, prompt: list[int], vocab_size: int, stops: frozenset[int]) -> None:
        """Begin a new output. Raises GenerationError for a grammar that llguidance cannot start."""
        from llguidance import LLMatcher

        self._stops = stops or frozenset(self.tokenizer.eos_token_ids)
        guidance = guidance_tokenizer(self.tokenizer, vocab_size, self._stops)
        self._matcher = LLMatcher(guidance, self.grammar)
        self._check()
        self._vocab_size = vocab_size
        self._bits = np.zeros((1, -(-vocab_size // 32)), np.int32)
        self._tokens: list[int] = []
        self._ended = False
        channel = [t for t in prompt if t in (self._opens, self._closes)]
        self._thinking = bool(channel) and channel[-1] == self._opens
        self._may_think = self.thinking and not self._thinking
        self._thought_mask: np.ndarray | None = None

    def allowed(self) -> Allowed:
        """Which tokens may come next: bool (V,). Raises GenerationError if llguidance gave up."""
        if self._thinking:
            return self._thought()
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._bits, 0)
        self._check()
        mask = np.unpackbits(
            self._bits.view(np.uint8)[0], bitorder="little", count=self._vocab_size
        )
        mask = mask.view(bool)
        if self._may_think:
            mask[self._opens] = True
        return mask

    def _thought(self) -> np.ndarray:
        """Allowed while thinking: ordinary tokens, and the one that closes the channel."""
        if self._thought_mask is None:
            mask = np.zeros(self._vocab_size, bool)
            mask[: self.tokenizer.vocab_size] = True
            mask[[i for i in self.tokenizer.special_ids.values() if i < self._vocab_size]] = False
            mask[[i for i in self._stops if i < self._vocab_size]] = False
            mask[self._closes] = True
            self._thought_mask = mask
        return self._thought_mask

    def accept(self, token: int) -> None:
        """This token was generated.

        Raises GenerationError for a token that was not allowed.
        """
        if self._thinking:
            self._thinking = token != self._closes
            return
        if self._may_think and token == self._opens:
            self._thinking, self._may_think = True, False
            return
        self._may_think = False
        if token in self._stops:
            self._ended = self._matcher.is_accepting()
        else:
            self._tokens.append(token)
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            problem = self._matcher.get_error().partition("<state>")[0].strip()
            raise GenerationError(f"Constrained decoding failed: {problem}")

    @property
    def in_thought(self) -> bool:
        """Whether the model is in its thinking channel."""
        return self._thinking

    @property
    def finished(self) -> bool:
        return not self._thinking and self._matcher.is_stopped()

    @property
    def complete(self) -> bool:
        """True if the output so far satisfies the grammar."""
        if self._matcher is None or self._thinking:
            return False
        return self._ended or self._matcher.is_accepting()

    @property
    def text(self) -> str:
        """The constrained output so far, without thinking and stop token."""
        return self.tokenizer.decode(self._tokens) if self._matcher is not None else ""

    def value(self) -> Any:
        """The finished output parsed: an instance of the pydantic class, the JSON value, or the
        text of a grammar.

        Raises:
            GenerationError: it is unfinished.
            pydantic.ValidationError: a validator of the pydantic class refused it.
        """
        if not self.complete:
            raise GenerationError(
                f"The output is unfinished: {self.text[-200:]!r}. Allow more max_tokens."
            )
        if self.model is not None:
            return self.model.model_validate_json(self.text)
        return json.loads(self.text) if self.schema is not None else self.text


def _reason(message: str) -> str:
    """llguidance's message, except where it names an option that users of this package lack."""
    if "oneOf constraints are not supported" in message:
        return (
            "the cases of a 'oneOf' must exclude one another by their type, or by a property that "
            "all of them require and that has other values in each; else write 'anyOf'."
        )
    return message


def _closed(schema: Any) -> Any:
    """pydantic's schema with ``additionalProperties: false`` where it says nothing: the class would
    ignore further properties, and a model may go on writing them until max_tokens."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if closed.get("type") == "object" and "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed
