"""Conversations: typed history, streaming, thinking, tools, structured answers."""

from .chat import Chat
from .events import Done, Reply, Step, TextDelta, ThinkingDelta, ToolCallDelta
from .messages import (
    Audio,
    Image,
    Message,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Video,
    check_history,
)
from .parser import ReplyParser
from .tools import Tool

__all__ = [
    "Audio",
    "Chat",
    "Done",
    "Image",
    "Message",
    "Reply",
    "ReplyParser",
    "Step",
    "Text",
    "TextDelta",
    "Thinking",
    "ThinkingDelta",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolResult",
    "Video",
    "check_history",
]
