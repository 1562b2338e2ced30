"""Tools of a real MCP server process."""

import sys
from pathlib import Path

import pytest

from gemma4_mlx.chat.messages import ToolCall
from gemma4_mlx.chat.tools import as_tools, call_tool
from gemma4_mlx.errors import ToolError

pytest.importorskip("mcp", reason="the mcp package is not installed")
from gemma4_mlx.chat.mcp import MCPServer

SERVER = Path(__file__).parent / "mcp_server.py"


@pytest.fixture(scope="module")
def server():
    with MCPServer(sys.executable, SERVER, timeout=60) as server:
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


def test_a_closed_server_is_an_error_not_a_hang():
    server = MCPServer(sys.executable, SERVER, prefix="s.", timeout=60)
    tools = as_tools(server.tools)
    assert "s.add" in tools
    server.close()
    got = call_tool(ToolCall("c", "s.add", {"a": 1, "b": 2}), tools)
    assert "no longer running" in got.error
