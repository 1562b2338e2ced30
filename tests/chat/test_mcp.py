"""Tools of a real MCP server process, over its standard input and output and over HTTP."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import PATIENCE, until

from gemma4_mlx.chat import Chat
from gemma4_mlx.chat.messages import ToolCall
from gemma4_mlx.chat.tools import as_tools, call_tool
from gemma4_mlx.errors import ToolError

pytest.importorskip("mcp", reason="the mcp package is not installed")
from gemma4_mlx.chat.mcp import (
    _NAME,
    MCPServer,
    _checked,
    _every_tool,
    _look,
    allowed_names,
)

SERVER = Path(__file__).parent / "mcp_server.py"


def in_a_thread(coroutine):
    """Its result; this thread has an event loop already where a browser was driven before."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@contextmanager
def http_process():
    """The address of a server process that has begun to listen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(SERVER), "--http", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(10 * PATIENCE):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, "the server did not start"
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


@pytest.fixture(scope="module", params=["stdio", "http"])
def server(request):
    if request.param == "stdio":
        with MCPServer(sys.executable, SERVER, prefix="", timeout=PATIENCE) as server:
            yield server
    else:
        with (
            http_process() as url,
            MCPServer(url, headers={"X-Test": "1"}, prefix="", timeout=PATIENCE) as server,
        ):
            yield server


def result(server, name, **arguments):
    tools = as_tools(server.tools)
    return call_tool(ToolCall("c", name, arguments), tools, timeout=PATIENCE)


def test_tools_are_declared(server):
    tools = as_tools(server.tools)
    assert {"add", "weather", "fail", "sleep", "picture"} <= set(tools)
    declared = tools["weather"].declaration["function"]
    assert declared["description"].startswith("Weather of a city.")
    assert declared["parameters"]["properties"]["city"]["type"] == "string"
    assert declared["parameters"]["required"] == ["city"]


def test_calls(server):
    got = result(server, "add", a=2, b=3)
    assert got.error is None
    assert got.result in ("5", {"result": 5})
    got = result(server, "weather", city="Zürich <turn|>")
    assert "Zürich <turn|>" in str(got.result)
    got = result(server, "picture")
    assert [m.kind for m in got.media] == ["image"]


def test_names_that_calls_do_not_allow(server):
    """Each tool is there under a name of its own, and the server hears its own name for it."""
    heard = {name: result(server, name) for name in as_tools(server.tools)}
    wanted = {
        "_3d_render": "3d_render",
        "user-profile_update_2": "user-profile/update",
        "user-profile_update": "user-profile_update",
        next(name for name in heard if name.startswith("long")): "long_" * 14,
    }
    for name, tells in wanted.items():
        assert _NAME.fullmatch(name)
        assert heard[name].result in (tells, {"result": tells})


@given(st.lists(st.text(max_size=70) | st.sampled_from(["a/b", "a_b", "a b", "a_b_2", "x" * 80])))
def test_every_list_of_names_becomes_an_allowed_one(names):
    found = allowed_names(names)
    assert all(map(_NAME.fullmatch, found)) and len(set(map(_look, found))) == len(names)
    kept = {name for name in names if _NAME.fullmatch(name)}
    if len(set(map(_look, kept))) == len([name for name in names if _NAME.fullmatch(name)]):
        assert kept <= set(found)


def test_names_that_look_alike_are_told_apart():
    found = allowed_names(["list", "List", "l1st", "1ist", "delete", "d\u0435lete", "a-b", "a.b"])
    assert found[0] == "list" and found[4] == "delete" and found[6] == "a-b"
    assert len(set(map(_look, found))) == 8


def endless(request):
    """A session whose list of tools has a further page for ever, or the same one again."""

    class Session:
        pages = 0

        async def list_tools(self, params=None):
            self.pages += 1
            cursor = "again" if request == "same" else str(self.pages)
            return SimpleNamespace(tools=[], nextCursor=cursor)

    return Session()


@pytest.mark.parametrize("kind", ["same", "new"])
def test_a_list_without_end_is_refused(kind):
    session = endless(kind)
    with pytest.raises(ToolError, match="does not end"):
        in_a_thread(_every_tool(session))
    assert session.pages <= 1002


def dag(levels):
    """A schema of two references a level: 2 ** levels places when written out."""
    definitions = {
        f"d{i}": {"type": "object", "properties": {k: {"$ref": f"#/$defs/d{i + 1}"} for k in "ab"}}
        for i in range(levels)
    }
    definitions[f"d{levels}"] = {"type": "string"}
    return {"type": "object", "properties": {"x": {"$ref": "#/$defs/d0"}}, "$defs": definitions}


@pytest.mark.parametrize(
    "schema",
    [
        *(dag(40), {"properties": 5}, {"properties": {"a": {"enum": 5}}}, {"required": "abc"}),
        *({"properties": {"a": {"anyOf": 7}}}, {"properties": {"a": {"allOf": True}}}, 12, [1]),
        {"properties": {"a": {"type": "array", "prefixItems": 3}}},
        {"properties": {"a": {"type": "string", "enum": "abc"}}},
        {"properties": {"a": {"type": "string", "enum": ["x"] * 3000}}},
        *({"required": [["a"]]}, {"properties": {"a": {"description": "\ud800"}}}),
        {"properties": {"a": {"type": "object", "properties": {"b": {}}, "required": "b"}}},
    ],
)
def test_a_schema_that_cannot_be_costs_that_tool_alone(schema):
    class Server(MCPServer):
        def __init__(self):
            self._name, self._timeout, self._ask = "test", 1.0, True
            self._offered = [
                SimpleNamespace(name="bad", description="Bad.", inputSchema=schema),
                SimpleNamespace(name="good", description=" \n ", inputSchema={}),
            ]

    with pytest.warns(UserWarning, match="a tool of the MCP server 'test' is left out"):
        (tool,) = Server()._declared("test.")
    assert (tool.name, tool.description, tool.asks) == ("test.good", "test.good", True)
    assert tool.declaration


def test_a_servers_tools_are_asked_about(actor, script, monkeypatch):
    with MCPServer(sys.executable, SERVER, timeout=PATIENCE) as server:
        tools = as_tools(server.tools)
        assert {name.split(".")[0] for name in tools} == {"tests"}
        for approve, runs in ((None, False), (lambda call: True, True)):
            script.replies += ["<|tool_call>call:tests.add{a:1,b:2}<tool_call|>", "Done.<turn|>"]
            monkeypatch.setattr("builtins.input", lambda question: "n")
            chat = Chat(actor, tools=server.tools)
            chat.run("go", approve=approve)
            assert chat.messages[2].parts[0].denied is not runs


@pytest.mark.parametrize("how", ["silent", "endless"])
def test_a_failed_start_holds_its_time_and_ends_everything(how):
    children = set(psutil.Process().children(recursive=True))
    threads = set(threading.enumerate())
    started = time.monotonic()
    with pytest.raises(ToolError, match="did not answer in time"):
        MCPServer(sys.executable, SERVER, f"--{how}", timeout=3)
    assert time.monotonic() - started < PATIENCE  # ending a process included
    until(lambda: set(threading.enumerate()) <= threads, "its threads have ended")
    assert set(psutil.Process().children(recursive=True)) <= children


@pytest.mark.parametrize("extra", [True, {"type": "string"}])
def test_further_arguments_where_the_server_asks_for_them(extra):
    schema = {"properties": {"a": {}}, "additionalProperties": extra}
    assert _checked(schema, {"a": 1, "b": "x"}) == {"a": 1, "b": "x"}
    for closed in ({"properties": {"a": {}}}, {**schema, "additionalProperties": False}):
        with pytest.raises(ToolError, match="b: there is no such parameter"):
            _checked(closed, {"a": 1, "b": "x"})


def test_a_server_that_cannot_be_used_leaves_no_thread(monkeypatch):
    def broken(*_):
        raise ToolError("no")

    monkeypatch.setattr(MCPServer, "_declared", broken)
    before = set(threading.enumerate())
    with pytest.raises(ToolError, match="no"):
        MCPServer(sys.executable, SERVER, timeout=PATIENCE)
    assert set(threading.enumerate()) <= before


def test_errors_go_back_to_the_model(server):
    assert "fail" in result(server, "fail").error
    assert "b: this parameter is required" in result(server, "add", a=1).error
    assert "c: there is no such parameter" in result(server, "add", a=1, b=2, c=3).error
    assert result(server, "add", a="x", b=2).error
    tools = as_tools(server.tools)
    tools["sleep"].timeout = 0.3
    assert "given up" in call_tool(ToolCall("c", "sleep", {"seconds": 5}), tools).error
    assert result(server, "add", a=1, b=1).error is None


def test_a_server_that_cannot_be_used():
    with pytest.raises(ToolError, match="cannot be used"):
        MCPServer("/no/such/program")
    with pytest.raises(ToolError, match="cannot be used"):
        MCPServer(sys.executable, "-c", "raise SystemExit(1)", timeout=PATIENCE)


def test_addresses_that_cannot_be_used():
    with pytest.raises(ToolError, match="cannot be used"):
        MCPServer("http://127.0.0.1:9/mcp", timeout=PATIENCE)  # the discard port: nobody listens
    with pytest.raises(ToolError, match="takes no arguments"):
        MCPServer("http://127.0.0.1:9/mcp", "--fast")
    with pytest.raises(ToolError, match="headers are for"):
        MCPServer(sys.executable, SERVER, headers={})


def test_a_server_that_goes_away_is_an_error_not_a_hang():
    with http_process() as url:
        server = MCPServer(url, prefix="", timeout=PATIENCE)
        tools = as_tools(server.tools)
        assert result(server, "add", a=1, b=2).error is None
    got = call_tool(ToolCall("c", "add", {"a": 1, "b": 2}), tools, timeout=PATIENCE)
    assert got.error
    server.close()


def test_a_closed_server_is_an_error_not_a_hang():
    server = MCPServer(sys.executable, SERVER, prefix="s.", timeout=PATIENCE)
    tools = as_tools(server.tools)
    assert "s.add" in tools
    server.close()
    got = call_tool(ToolCall("c", "s.add", {"a": 1, "b": 2}), tools)
    assert "no longer running" in got.error
