"""A small MCP server for the tests, run as a process.

It speaks over standard input and output, or with ``--http PORT`` over streamable HTTP.
"""

import base64
import sys
import time

try:  # version 2 of the package
    from mcp.server.mcpserver import MCPServer as Server
except ImportError:
    from mcp.server.fastmcp import FastMCP as Server
from mcp.types import ImageContent

server = Server("tests")
PIXEL = base64.b64encode(
    base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
).decode()


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def weather(city: str, days: int = 1) -> dict:
    """Weather of a city. Ends a turn? <turn|> no."""
    return {"city": city, "days": days, "sky": "clear"}


@server.tool()
def fail() -> str:
    """Always fails."""
    raise RuntimeError("out of order")


@server.tool()
def sleep(seconds: float) -> str:
    """Waits."""
    time.sleep(seconds)
    return "awake"


def named(name: str):
    """A tool that tells which one was called."""

    def tell() -> str:
        return name

    server.add_tool(tell, name=name, description="Tells its name.")


for name in ("3d_render", "user-profile/update", "user-profile_update", "long_" * 14):
    named(name)


@server.tool()
def picture() -> list:
    """One pixel."""
    field = "mimeType" if "mimeType" in ImageContent.model_fields else "mime_type"
    return [ImageContent(type="image", data=PIXEL, **{field: "image/png"})]


if __name__ == "__main__":
    if "--silent" in sys.argv:
        time.sleep(3600)
    if "--endless" in sys.argv:  # answers, and never says that it is ready
        while True:
            print('{"jsonrpc": "2.0", "method": "notifications/message", "params": {}}', flush=True)
            time.sleep(0.01)
    if "--http" not in sys.argv:
        server.run("stdio")
    elif hasattr(server, "settings") and hasattr(server.settings, "port"):  # version 1
        server.settings.port = int(sys.argv[-1])
        server.run("streamable-http")
    else:
        server.run("streamable-http", port=int(sys.argv[-1]))
