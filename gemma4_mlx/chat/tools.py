"""Python functions as tools: declared to the model from their hints and docstrings, called safely.

    def get_weather(city: str, days: int = 1) -> dict:
        \"""Weather forecast for a city.

        Args:
            city: Name of the city.
            days: How many days.
        \"""

    Chat(model, tools=[get_weather])

The hints become a pydantic model: arguments are validated (and converted where that is safe, "3" to
3) before the function runs. What is wrong with them goes back to the model in words, so that it can
correct the call.
"""

import inspect
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import ToolError
from .declarations import declared_schema
from .docstrings import read_docstring
from .messages import ToolCall, ToolResult
from .results import plain_result, plain_text, words_of

#: A tool's name.
NAME = re.compile(r"[A-Za-z_][\w.-]{0,63}")


class Tool:
    """Something a model can call.

    Attributes:
        name, description: as the model reads them.
        schema: JSON Schema of the arguments, as validation sees it.
        timeout: seconds after which a call counts as failed; None: the agent loop's limit.
        asks: whether each call needs approval (as for tools of servers).
    """

    def __init__(
        self,
        name: str,
        description: str,
        schema: Mapping[str, Any],
        function: Callable[..., Any],
        *,
        check: Callable[[Mapping[str, Any]], dict[str, Any]],
        timeout: float | None = None,
        asks: bool = False,
    ):
        """See :meth:`from_function`. ``check`` turns raw arguments into the function's keywords,
        or raises ToolError.

        Raises ToolError for an invalid name, timeout, description or schema.
        """
        if not NAME.fullmatch(name):
            raise ToolError(
                f"{name!r} cannot be a tool's name: letters, digits, '_', '-' and '.', at most 64, "
                "beginning with a letter (a lambda has no name: write a def)."
            )
        if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
            raise ToolError(
                f"{name!r} needs a timeout of seconds above 0, or None, not {timeout!r}."
            )
        if not isinstance(description, str) or not description.strip():
            raise ToolError(f"{name!r} needs a description that says what it does.")
        try:
            self._parameters = declared_schema(schema)
        except ToolError as error:
            raise ToolError(f"the schema of {name!r} {error}") from None
        except (TypeError, ValueError, AttributeError, KeyError, RecursionError) as error:
            raise ToolError(f"the schema of {name!r} is none that can be read: {error}") from error
        self.name, self.description, self.schema = name, description, dict(schema)
        self.function, self.timeout, self.asks = function, timeout, asks
        self._check = check

    @classmethod
    def from_function(
        cls, function: Callable[..., Any], *, name: str | None = None, timeout: float | None = None
    ) -> "Tool":
        """Declare a function (``async`` ones, too).

        Raises:
            ToolError: no docstring, one that describes what is no parameter, a parameter without
                hint or description, a hint that cannot be read, ``*args``, a positional-only
                parameter, a type that JSON cannot carry, an invalid name or timeout.
        """
        name = name or getattr(function, "__name__", "")
        description, documented = read_docstring(inspect.getdoc(function))
        if not description:
            raise ToolError(f"the tool {name!r} needs a docstring that says what it does.")
        model, fields = _argument_model(name, function, documented)
        for extra in documented.keys() - fields.values():
            raise ToolError(f"the docstring of {name!r} describes {extra!r}, not a parameter.")

        def check(arguments: Mapping[str, Any]) -> dict[str, Any]:
            return _checked(model, fields, arguments)

        schema = model.model_json_schema(by_alias=True)
        return cls(name, description, schema, function, check=check, timeout=timeout)

    @property
    def declaration(self) -> dict[str, Any]:
        """The declaration in the form that chat templates read."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": self._parameters,
            },
        }

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The function's keyword arguments. Raises ToolError with every problem in words."""
        return self._check(arguments)

    def __repr__(self) -> str:
        return f"Tool({self.name!r}: {self.description.splitlines()[0]!r})"


def as_tools(tools: Iterable[Tool | Callable[..., Any]]) -> dict[str, Tool]:
    """Name -> tool, for functions and tools. Raises ToolError, also for two of the same name."""
    found: dict[str, Tool] = {}
    if callable(tools) or not isinstance(tools, Iterable):
        raise ToolError("tools must be a list: tools=[my_function].")
    for tool in tools:
        if not isinstance(tool, Tool):
            if not callable(tool):
                raise ToolError(f"a tool must be a function, not {tool!r:.80}.")
            tool = Tool.from_function(tool)
        if tool.name in found:
            raise ToolError(f"two tools are called {tool.name!r}; give one another name.")
        found[tool.name] = tool
    return found


def _argument_model(name: str, function: Callable, documented: Mapping[str, str]):
    """A pydantic model of the parameters, and {its field: parameter}."""
    from pydantic import ConfigDict, Field, create_model
    from pydantic.errors import PydanticUserError

    try:
        signature = inspect.signature(function, eval_str=True)
    except Exception as error:  # hints in quotes are evaluated
        raise ToolError(f"the parameters of {name!r} cannot be read: {error}") from error
    fields: dict[str, Any] = {}
    parameters: dict[str, str] = {}
    for i, (key, parameter) in enumerate(signature.parameters.items()):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ToolError(
                f"the tool {name!r} takes {parameter}: a model can only fill parameters that have "
                "a name; list them."
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ToolError(f"the parameter {key!r} of {name!r} is positional-only; drop the '/'.")
        if parameter.annotation is parameter.empty:
            raise ToolError(f"the parameter {key!r} of {name!r} has no type hint.")
        description = documented.get(key) or _annotated_description(parameter.annotation)
        if not description:
            raise ToolError(
                f"the parameter {key!r} of {name!r} is not documented: describe it in the "
                "docstring under 'Args:'."
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        # Numbered fields with the names as aliases: pydantic reserves some names for itself.
        fields[f"field_{i}"] = (
            parameter.annotation,
            Field(default, alias=key, description=description, title=key),
        )
        parameters[f"field_{i}"] = key
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = ConfigDict(extra="forbid", arbitrary_types_allowed=False)
            model = create_model(name, __config__=config, **fields)
            model.model_json_schema()
    except (PydanticUserError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ToolError(
            f"a parameter of {name!r} has a type that a model cannot write as JSON: {reason}"
        ) from error
    return model, parameters


def _annotated_description(annotation: Any) -> str | None:
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, str):
            return extra
        if getattr(extra, "description", None):
            return extra.description
    return None


def _checked(model, fields: Mapping[str, str], arguments: Mapping[str, Any]) -> dict[str, Any]:
    from pydantic import ValidationError

    try:
        valid = model.model_validate(dict(arguments))
    except ValidationError as error:
        raise ToolError("; ".join(map(_problem, error.errors()))) from None
    given = valid.model_fields_set
    return {fields[f]: getattr(valid, f) for f in fields if f in given}


def _problem(error: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    message = error["msg"]
    if error["type"] == "extra_forbidden":
        return f"{place}: there is no such parameter"
    if error["type"] == "missing":
        return f"{place}: this parameter is required"
    return f"{place}: {message} (got {error['input']!r:.60})"


# Calling


def call_tool(
    call: ToolCall,
    tools: Mapping[str, Tool],
    *,
    timeout: float | None = 60.0,
    cancelled: Callable[[], bool] = lambda: False,
) -> ToolResult:
    """Run one call and return its result; exceptions of the tool become an error in the result.

    The function runs in a thread of its own. If it exceeds its time limit, the thread is abandoned
    (Python cannot kill a thread) and the result is an error.
    """

    def failed(problem: str) -> ToolResult:
        return ToolResult(call.id, call.name, error=plain_text(problem))

    if call.error is not None:
        return failed(call.error)
    tool = tools.get(call.name)
    if tool is None:
        known = ", ".join(tools) or "none"
        return failed(f"there is no tool {call.name!r}; the tools are: {known}")
    try:
        keywords = tool.validate(call.arguments)
    except ToolError as error:
        return failed(f"wrong arguments: {error}")

    limit = tool.timeout if tool.timeout is not None else timeout
    outcome: dict[str, Any] = {}
    thread = threading.Thread(
        target=_run, args=(tool.function, keywords, outcome), name=f"tool {tool.name}", daemon=True
    )
    thread.start()
    end = None if limit is None else time.monotonic() + limit
    while thread.is_alive():
        thread.join(0.05)
        if cancelled():
            return failed("the call was cancelled")
        if end is not None and time.monotonic() >= end and thread.is_alive():
            return failed(f"no result after {limit:g} s; the call was given up")
    if "error" in outcome:
        return failed(words_of(outcome["error"]))
    result, media = plain_result(outcome.get("result"))
    return ToolResult(call.id, call.name, result, media=media)


def _run(function: Callable, keywords: dict[str, Any], outcome: dict[str, Any]) -> None:
    try:
        result = function(**keywords)
        if inspect.iscoroutine(result):
            import asyncio

            result = asyncio.run(result)
        outcome["result"] = result
    except BaseException as error:
        outcome["error"] = error
