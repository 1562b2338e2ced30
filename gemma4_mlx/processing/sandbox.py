"""The sandbox that chat templates run in: a stranger's program, held to a budget.

A chat template comes with a checkpoint and is a small program. Jinja's immutable sandbox keeps it
from Python's objects; this one also keeps it from running or growing without end. Filters and
methods of strings are those that templates need. Each turn of a loop and each call of a macro
costs a step, each string that is joined, repeated or written costs its characters; time counts as
well. What a conversation may cost grows with its size, so that a long one is no attack.
"""

import contextvars
import re
import time
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from json import dumps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from ..errors import ChatError

FILTERS = (
    *("abs", "attr", "batch", "capitalize", "count", "d", "default", "dictsort", "e", "escape"),
    *("first", "float", "groupby", "indent", "int", "items", "join", "last", "length", "list"),
    *("lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe"),
    *("select", "selectattr", "sort", "string", "sum", "title", "tojson", "trim", "truncate"),
    *("unique", "upper"),
)
#: Those whose results are paid for, and those whose numbers are bounded.
_COUNTED = {"join", "replace", "indent", "batch", "truncate", "round", "tojson", "escape", "e"}
_COUNTED |= {"list", "string", "sum"}
_NUMBERED = {"indent", "batch", "truncate", "round"}
#: Methods of strings that templates do not need and that pad or multiply.
_PADDING = {"center", "expandtabs", "format_map", "ljust", "rjust", "translate", "zfill"}
#: The largest number a filter takes (an indent, a batch), and bits of a computed integer.
_LARGEST = 10_000


class Budget:
    """What one rendering may cost.

    Args:
        size: characters and values of what is rendered.

    Seconds are the processor's, spent in this thread.
    """

    def __init__(self, size: int) -> None:
        self.steps = 100_000 + 50 * size
        self.characters = 4_000_000 + 50 * size
        self.seconds = 1.0 + size / 100_000
        self._end = time.thread_time() + self.seconds  # not the clock: others may be running

    def step(self, written: int) -> None:
        """One turn of a loop or call of a macro that writes so many characters by itself."""
        self.steps -= 1
        self.characters -= written
        if self.steps < 0:
            raise _TooMuch("runs without end: more steps than this conversation can need")
        if self.steps % 16 == 0 and time.thread_time() > self._end:
            raise _TooMuch(f"is not done after {self.seconds:.1f} s")
        if self.characters < 0:
            self.spend(0)

    def spend(self, characters: int) -> None:
        self.characters -= characters
        if self.characters < 0:
            raise _TooMuch("writes without end: more text than this conversation can need")


class _TooMuch(jinja2.TemplateError):
    pass


_budget: contextvars.ContextVar[Budget] = contextvars.ContextVar("budget")


def run(template: jinja2.Template, context: Mapping[str, Any], size: int) -> str:
    """What ``template`` (of :func:`compiled`) writes.

    Args:
        context: the template's variables.
        size: characters and values in ``context``; the budget grows with it.

    Raises:
        ChatError: the template refuses, cannot take the values, or goes beyond its budget.
    """
    token = _budget.set(budget := Budget(size))
    parts = []
    try:
        for part in template.generate(context):
            budget.spend(len(part))
            parts.append(part)
    except _TooMuch as error:
        raise ChatError(f"the chat template {error}.") from None
    except jinja2.TemplateError as error:
        raise ChatError(f"the chat template refused this conversation: {error}") from error
    except RecursionError:
        raise ChatError("the chat template calls itself without end.") from None
    except (TypeError, KeyError, AttributeError, ValueError, ArithmeticError, MemoryError) as error:
        raise ChatError(
            f"the chat template cannot render this conversation: {error} "
            "(a message has a shape that the template does not know)."
        ) from error
    finally:
        _budget.reset(token)
    return "".join(parts)


@lru_cache(maxsize=16)
def compiled(source: str, stand_in: str) -> jinja2.Template:
    """A template ready to run; ``stand_in`` is the character that stands for ``<`` in its values.

    Raises ChatError for one that is no template or uses what the sandbox does not have.
    """
    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def dictsort(value, case_sensitive=False, by="key", reverse=False):
        """Jinja's filter, which must order ``<`` where it belongs."""
        position = 0 if by == "key" else 1

        def order(item):
            key = item[position]
            if not isinstance(key, str):
                return key
            key = key.replace(stand_in, "<")
            return key if case_sensitive else key.lower()

        return sorted(value.items(), key=order, reverse=reverse)

    environment.filters["dictsort"] = dictsort
    token = _budget.set(Budget(len(source)))  # Jinja computes constants while it compiles
    try:
        tree = environment.parse(source)
        _count_steps(tree)
        code = environment.compile(tree, "chat template")
    except jinja2.TemplateSyntaxError as error:
        raise ChatError(f"the chat template is broken at line {error.lineno}: {error}") from error
    except (RecursionError, MemoryError):
        raise ChatError("the chat template is nested too deeply to be read.") from None
    finally:
        _budget.reset(token)
    return jinja2.Template.from_code(environment, code, environment.make_globals(None))


def _count_steps(tree: nodes.Template) -> None:
    """Put a step at the start of every loop's and macro's body, and let joining be counted."""
    for node in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block))):
        written = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        step = nodes.Filter(nodes.Const(written), "_step", [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(step).set_lineno(node.lineno))
    for node in tree.find_all(nodes.Concat):  # a ~ b
        node.nodes = [nodes.Filter(each, "_counted", [], [], None, None) for each in node.nodes]
    for node in tree.find_all(nodes.Output):  # text that a block or macro collects
        node.nodes = [
            each
            if isinstance(each, nodes.TemplateData)
            else nodes.Filter(each, "_counted", [], [], None, None)
            for each in node.nodes
        ]


def _spend(characters: int) -> None:
    _budget.get().spend(characters)


@jinja2.pass_context  # a filter of a constant would else be computed once, while compiling
def _step(_context: Any, written: int) -> None:
    _budget.get().step(written)


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def _counted(value: Any) -> Any:
    """``value``, paid for as if it were written: lists with all they hold, however often."""
    budget = _budget.get()
    if isinstance(value, str):
        budget.spend(len(value))
        return value
    waiting = [value]
    while waiting:
        each = waiting.pop()
        budget.spend(len(each) if isinstance(each, str) else 1)
        if isinstance(each, Mapping):
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple):
            budget.spend(len(each))
            waiting += each
    return value


def _bounded(filter_, name: str):
    """A filter that takes no huge numbers and whose result is paid for."""
    # Jinja hands some filters its context before the value; a mark on the function says so.
    first = int(hasattr(filter_, "jinja_pass_arg"))

    def checked(*args, **kwargs):
        options = (*args[first + 1 :], *kwargs.values())
        if name in _NUMBERED and any(isinstance(x, int) and abs(x) > _LARGEST for x in options):
            raise _TooMuch(f"gives the filter {name} a number above {_LARGEST:,}")
        if name == "sum" and any(isinstance(x, list | tuple) for x in options):
            raise _TooMuch("adds up what are no numbers")
        if name == "join":
            values = list(args[first])
            args = (*args[:first], values, *args[first + 1 :])
            glue = args[first + 1] if len(args) > first + 1 else kwargs.get("d", "")
            _spend(len(values) * _size(glue))
        _counted(args[first])
        return _counted(filter_(*args, **kwargs))

    checked.__dict__.update(filter_.__dict__)
    return checked


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, with a budget.

    What templates do most has a short way: their own variables in a ``namespace()`` need none of
    the checks that protect Python objects.
    """

    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters["tojson"] = _to_json
        self.filters["replace"] = _replace
        kept = {name: self.filters[name] for name in FILTERS}
        self.filters = {
            name: _bounded(kept[name], name) if name in _COUNTED else kept[name] for name in kept
        }
        self.filters.update(_counted=_counted, _step=_step)
        for name in ("lipsum", "cycler", "joiner"):
            del self.globals[name]
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def is_safe_attribute(self, obj, attr, value):
        if type(obj) is Namespace and not attr.startswith("_"):
            return True
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value):
        text = getattr(value, "__self__", None)
        if isinstance(text, str):
            if value.__name__ in _PADDING:
                raise _TooMuch(f"uses str.{value.__name__}, which is not for templates")
            if value.__name__ == "format" and re.search(r"\{[^}]*(\d{4}|\{)", text):
                raise _TooMuch(f"pads with the format {text[:40]!r}")
        return super().wrap_str_format(value)

    def call(self, context, obj, *args, **kwargs):
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            if obj.__name__ == "replace":
                return _replace(owner, *args, **kwargs)
            if obj.__name__ == "join":
                args = tuple(list(each) for each in args)
                _spend(sum(_size(each) * len(owner) for each in args))
            return _counted(super().call(context, obj, *args, **kwargs))
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context, operator, left, right):
        if operator == "+":
            if not isinstance(left, int):
                _spend(_size(left) + _size(right))
            return left + right
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(text, str | list | tuple) and isinstance(times, int):
                    _spend(len(text) * max(0, times))
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * max(1, right if operator == "**" else 1)
            if bits + right.bit_length() > _LARGEST:
                raise _TooMuch("computes a number of thousands of digits")
        if operator == "%" and isinstance(left, str):
            if re.search(r"\*|\d{4}", left):
                raise _TooMuch(f"pads with the format {left[:40]!r}")
            _counted(right)
            return _counted(left % right)
        return super().call_binop(context, operator, left, right)


def _replace(value, old, new, count=-1):
    value, old, new = (str(_counted(each)) for each in (value, old, new))
    times = value.count(old) if old else len(value) + 1
    _spend(len(value) + times * len(new))
    return value.replace(old, new, -1 if count is None else count)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    if isinstance(indent, int) and indent > 16:
        raise _TooMuch(f"indents JSON by {indent}")
    return dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message):
    raise jinja2.TemplateError(message)


def _strftime_now(format):
    if len(format) > 200 or re.search(r"\d{3}", format):
        raise _TooMuch(f"asks for the time as {format[:40]!r}")
    return datetime.now().strftime(format)
