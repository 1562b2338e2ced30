"""Tools of a real MCP server process, over its standard input and output and over HTTP."""

import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from gemma4_mlx.chat.messages import ToolCall
from gemma4_mlx.chat.tools import as_tools, call_tool
from gemma4_mlx.errors import ToolError

pytest.importorskip("mcp", reason="the mcp package is not installed")
from gemma4_mlx.chat.mcp import MCPServer

SERVER = Path(__file__).parent / "mcp_server.py"


@contextmanager
def http_process():
    """The address of a server process that has begun to listen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(SERVER), "--http", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
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
        with MCPServer(sys.executable, SERVER, timeout=60) as server:
            yield server
    else:
        with http_process() as url, MCPServer(url, headers={"X-Test": "1"}, timeout=60) as server:
            yield server


def result(server, name, **arguments):
    tools = as_tools(server.tools)
    return call_tool(ToolCall("c", name, arguments), tools, timeout=60)


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
        MCPServer(sys.executable, "-c", "raise SystemExit(1)", timeout=20)


def test_addresses_that_cannot_be_used():
    with pytest.raises(ToolError, match="cannot be used"):
        MCPServer("http://127.0.0.1:9/mcp", timeout=20)  # the discard port: nobody listens
    with pytest.raises(ToolError, match="takes no arguments"):
        MCPServer("http://127.0.0.1:9/mcp", "--fast")
    with pytest.raises(ToolError, match="headers are for"):
        MCPServer(sys.executable, SERVER, headers={})


def test_a_server_that_goes_away_is_an_error_not_a_hang():
    with http_process() as url:
        server = MCPServer(url, timeout=10)
        tools = as_tools(server.tools)
        assert call_tool(ToolCall("c", "add", {"a": 1, "b": 2}), tools, timeout=60).error is None
    got = call_tool(ToolCall("c", "add", {"a": 1, "b": 2}), tools, timeout=60)
    assert got.error
    server.close()


def test_a_closed_server_is_an_error_not_a_hang():
    server = MCPServer(sys.executable, SERVER, prefix="s.", timeout=60)
    tools = as_tools(server.tools)
    assert "s.add" in tools
    server.close()
    got = call_tool(ToolCall("c", "s.add", {"a": 1, "b": 2}), tools)
    assert "no longer running" in got.error
