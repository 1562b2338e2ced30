"""Tools of an MCP server (Model Context Protocol), a process beside this one or behind a URL.

    with MCPServer("python", "weather_server.py") as server:
        chat = Chat(model, tools=[*server.tools, my_own_function])
        chat.run("How warm is it in Paris?")  # asks before it calls a server's tool

    MCPServer("http://127.0.0.1:8000/mcp", headers={"Authorization": "Bearer ..."})

The official client (``pip install mcp``) speaks over the process's standard input and output, or
with a URL over streamable HTTP, in a thread of its own. The older HTTP+SSE transport, which the
protocol has replaced, and signing in (OAuth) are not supported. Nothing a server says is
trusted: names are checked, descriptions and results reach the model as plain text, a call runs only
if the user approves, and a tool whose declaration cannot be read is left out.
"""

import asyncio
import base64
import contextlib
import re
import threading
import unicodedata
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ToolError
from .messages import Audio, Image
from .results import plain_text
from .tools import Tool

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
#: Limit of the tools of one server, and of the pages of its list.
_MOST_TOOLS = 1000
#: Seconds to wait for a connection to end. A process that does not end is killed earlier.
_ENDING = 5.0


class MCPServer:
    """A running MCP server.

    Args:
        command: the program, and `args` its arguments; or the http(s) URL of a server that runs
            already.
        headers: HTTP headers to send, for a URL.
        env: environment variables to set. Of the present environment only the few that programs
            need are passed on.
        cwd: the folder it runs in.
        prefix: put before every tool's name, to keep servers apart; None: the server's own name
            and a dot.
        timeout: seconds to wait for it to start, and for any one call.
        ask: whether its tools run only if the user approves: ``Chat.run(approve=...)``, or a
            question at the keyboard where none is given.

    Attributes:
        tools: what it offers, ready for ``Chat(tools=...)``. A name that Gemma's format does not
            allow (``3d_render``, ``user/update``, one too long), or that could be taken for
            another, is changed into one that it does; the server is called by its own name. A
            tool that cannot be declared is left out with a warning.

    Raises:
        ToolError: the `mcp` package is missing, the program does not start, the server does not
            answer, or an argument does not go with this kind of server (program or URL).
    """

    def __init__(
        self,
        command: str,
        *args: str,
        headers: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        prefix: str | None = None,
        timeout: float = 30.0,
        ask: bool = True,
    ):
        try:
            import mcp
        except ImportError as error:
            raise ToolError("MCP servers need the official client: pip install mcp") from error
        if not (isinstance(timeout, int | float) and timeout > 0):
            raise ToolError(f"a server needs a timeout of seconds above 0, not {timeout!r}.")
        self._timeout, self._ask = timeout, ask
        remote = command.startswith(("http://", "https://"))
        if remote and (args or env is not None or cwd is not None):
            raise ToolError("a server behind a URL takes no arguments, env or cwd.")
        if headers is not None and not remote:
            raise ToolError("headers are for a server behind a URL, not for a program.")
        if remote:
            self._connect = lambda: _over_http(command, headers)
        else:
            parameters = mcp.StdioServerParameters(
                command=command,
                args=[str(a) for a in args],
                env=dict(env) if env is not None else None,
                cwd=str(cwd) if cwd is not None else None,
            )
            self._connect = lambda: mcp.stdio_client(parameters)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._problem: BaseException | None = None
        self._session = None
        self._offered: list[Any] = []
        self._name = ""
        self._serving: asyncio.Task | None = None
        self._thread = threading.Thread(target=self._work, name=f"mcp {command}", daemon=True)
        self._thread.start()
        started = self._ready.wait(timeout)
        if not started or self._problem is not None:
            self.close()
            reason = "it did not answer in time" if not started else _reason(self._problem)
            raise ToolError(f"the MCP server {command!r} cannot be used: {reason}")
        try:
            self.tools = self._declared(f"{self._name}." if prefix is None else prefix)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "MCPServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and the process. Calls after this fail."""
        if self._serving is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join(_ENDING)

    # In the connection's thread

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._serving = self._loop.create_task(self._serve())
            self._loop.run_until_complete(self._serving)
        except BaseException as error:
            self._problem = self._problem or error
        finally:
            self._session = None
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        from mcp import ClientSession

        async with (
            self._connect() as (reader, writer, *_),
            ClientSession(reader, writer) as session,
        ):
            started = await session.initialize()
            about = _field(started, "serverInfo", "server_info")
            self._name = str(getattr(about, "name", "") or "server")
            self._offered = await _every_tool(session)
            self._session = session
            self._ready.set()
            await asyncio.Event().wait()  # until close() cancels

    # In the tools' threads

    def _declared(self, prefix: str) -> list[Tool]:
        tools = []
        names = allowed_names([prefix + str(offered.name) for offered in self._offered])
        for offered, name in zip(self._offered, names, strict=True):
            try:
                tools.append(self._tool(offered, name))
            except ToolError as error:
                warnings.warn(
                    f"a tool of the MCP server {self._name[:60]!r} is left out: {error}",
                    stacklevel=3,
                )
        return tools

    def _tool(self, offered: Any, name: str) -> Tool:
        schema = _field(offered, "inputSchema", "input_schema") or {"type": "object"}
        if not isinstance(schema, Mapping):
            raise ToolError(f"the schema of {name!r} is {str(schema)[:40]}, not an object.")
        required = schema.get("required", [])
        good = isinstance(required, list) and all(isinstance(n, str) for n in required)
        if not good or not isinstance(schema.get("properties", {}), Mapping):
            raise ToolError(f"the properties of {name!r}, or those required, are no such thing.")

        def function(**arguments: Any) -> Any:
            return self._call(offered.name, arguments)

        def check(arguments: Mapping[str, Any]) -> dict[str, Any]:
            return _checked(schema, arguments)

        description = plain_text(offered.description or "", 10_000).strip() or name
        return Tool(
            name, description, schema, function, check=check, timeout=self._timeout, asks=self._ask
        )

    def _call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        session = self._session
        if session is None:
            raise ToolError("the MCP server is no longer running")
        future = asyncio.run_coroutine_threadsafe(
            session.call_tool(name, dict(arguments)), self._loop
        )
        try:
            return _value(future.result(self._timeout))
        except TimeoutError:
            future.cancel()
            raise ToolError(f"the MCP server gave no result within {self._timeout:g} s") from None


def allowed_names(names: Sequence[str]) -> list[str]:
    """A valid tool name for each: ASCII letters, digits and ``_.-``, at most 64.

    No two look alike, so that neither the model nor the user takes one for another: names that
    differ only in case, ``-._``, ``0O`` or ``1lI`` get numbers. Other valid names stay as they are.
    """
    found: dict[int, str] = {}
    taken: set[str] = set()
    for i in sorted(range(len(names)), key=lambda i: not _NAME.fullmatch(names[i])):  # stable
        ascii = unicodedata.normalize("NFKD", names[i]).encode("ascii", "replace").decode()
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", ascii)
        name = name if re.match("[A-Za-z_]", name) else f"_{name}"
        if len(name) > 64:
            name = f"{name[:55]}_{zlib.crc32(names[i].encode(errors='replace')):08x}"
        wanted, number = name, 2
        while _look(name) in taken:
            name, number = f"{wanted[:58]}_{number}", number + 1
        taken.add(_look(name))
        found[i] = name
    return [found[i] for i in range(len(names))]


def _look(name: str) -> str:
    return name.lower().translate(str.maketrans("0i1-.", "oll__"))


@contextlib.asynccontextmanager
async def _over_http(url: str, headers: Mapping[str, str] | None):
    """The streams of a connection, by the function that this version of the client has."""
    from mcp.client import streamable_http

    headers = dict(headers or {})
    if hasattr(streamable_http, "streamable_http_client"):
        async with (
            streamable_http.create_mcp_http_client(headers=headers) as client,
            streamable_http.streamable_http_client(url, http_client=client) as streams,
        ):
            yield streams
    else:
        async with streamable_http.streamablehttp_client(url, headers=headers) as streams:
            yield streams


async def _every_tool(session: Any) -> list[Any]:
    """All tools that the server offers, from every page of its list."""
    from mcp.types import PaginatedRequestParams

    offered: list[Any] = []
    cursors: set[str] = set()
    page = await session.list_tools()
    while True:
        offered += page.tools
        cursor = _field(page, "nextCursor", "next_cursor")
        if not cursor:
            return offered
        if cursor in cursors or len(cursors) > _MOST_TOOLS or len(offered) > _MOST_TOOLS:
            raise ToolError(f"its list of tools does not end (after {len(offered):,})")
        cursors.add(cursor)
        page = await session.list_tools(params=PaginatedRequestParams(cursor=cursor))


def _value(result: Any) -> Any:
    """Plain data and media of a call's result. Raises ToolError if the server reports an error."""
    texts, media = [], []
    for block in result.content or ():
        if block.type == "text":
            texts.append(block.text)
        elif block.type in ("image", "audio"):
            kind = Image if block.type == "image" else Audio
            try:
                media.append(kind(base64.b64decode(block.data)))
            except ValueError as error:
                raise ToolError(f"the server sent {block.type} data that is no base64") from error
        else:
            texts.append(block.model_dump_json(exclude_none=True))
    text = "\n".join(texts)
    if _field(result, "isError", "is_error"):
        raise ToolError(text or "the tool failed without a message")
    structured = _field(result, "structuredContent", "structured_content")
    if media:
        return [text, *media] if text else media
    return structured if structured is not None else text


def _checked(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, if none is missing or unknown; the server checks the rest."""
    properties = schema.get("properties") or {}
    required = schema.get("required") or ()
    problems = [f"{name}: this parameter is required" for name in required if name not in arguments]
    # JSON Schema admits further names unless told otherwise; here they have to be asked for, so
    # that a model's misspelling comes back to it.
    extra = schema.get("additionalProperties", not properties)
    if extra is False:
        unknown = [n for n in arguments if n not in properties]
        problems += [f"{name}: there is no such parameter" for name in unknown]
    if problems:
        raise ToolError("; ".join(problems))
    return dict(arguments)


def _field(value: Any, *names: str) -> Any:
    """A field that versions 1 and 2 of the client name differently."""
    return next((getattr(value, n) for n in names if hasattr(value, n)), None)


def _reason(error: BaseException) -> str:
    """The first real error inside a group of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
