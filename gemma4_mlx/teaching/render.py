"""Samples, and the chat format they are rendered in (exactly the release's template).

    <bos><|turn>user⏎What is 2 + 2?<turn|>⏎<|turn>model⏎4<turn|>⏎

A `Sample` is a list of (text, learn) parts; the loss looks only at parts with learn = True,
which are the model's own words and the marker that ends its turn.
"""

import zlib
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Sample:
    """One training or evaluation text, with its pictures and sounds."""

    domain: str
    skill: str
    keys: list[str]  # the combinations it asks about, in order; they decide the split
    parts: list[tuple[str, bool]]
    images: list[np.ndarray] = field(default_factory=list)  # uint8 (h, w, 3)
    audio: list[np.ndarray] = field(default_factory=list)  # float32 (n,), 16 kHz
    # For each learned part, the soft tokens of the picture that it is about (none: not said).
    looks: list[list[int]] = field(default_factory=list)
    # Text that is copied: (part, where in it, the part it comes from, where in that, characters).
    copies: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    check: dict = field(default_factory=dict)  # what evaluate.py needs to judge the answer

    def belongs_to(self, split: str) -> bool:
        """Training never shows a held-out combination; a test asks for one at the end."""
        if split == "train":
            return not any(map(held_out, self.keys))
        return held_out(self.keys[-1])

    @property
    def prompt(self) -> str:
        """Everything before the last learned part."""
        last = max(i for i, (_, learn) in enumerate(self.parts) if learn)
        return "".join(text for text, _ in self.parts[:last])

    @property
    def answer(self) -> str:
        """The last learned part, without the marker that ends it."""
        text = [text for text, learn in self.parts if learn][-1]
        return text.removesuffix("<turn|>").removesuffix("<|tool_response>")


def held_out(key: str) -> bool:
    """Whether a combination is kept for the evaluation: one in ten, decided by its checksum."""
    return zlib.crc32(key.encode()) % 10 == 0


def quote(value) -> str:
    """A value in a tool call: strings between <|"|>, numbers and booleans bare."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'<|"|>{value}<|"|>' if isinstance(value, str) else str(value)


def mapping(values: dict) -> str:
    """`{a:1,b:<|"|>x<|"|>}`, keys sorted."""
    items = sorted(values.items(), key=lambda item: item[0].lower())
    return "{" + ",".join(f"{k}:{quote(v)}" for k, v in items) + "}"


def declaration(tool: dict) -> str:
    """One tool declaration. `tool`: name, description, parameters {name: (type, text)}."""
    properties = ",".join(
        f"{name}:{{description:{quote(text)},type:{quote(kind)}}}"
        for name, (kind, text) in sorted(tool["parameters"].items())
    )
    required = ",".join(quote(name) for name in tool["parameters"])
    taken = f"properties:{{{properties}}},required:[{required}]," if properties else ""
    return (
        f"<|tool>declaration:{tool['name']}{{description:{quote(tool['description'])},"
        f"parameters:{{{taken}type:{quote('OBJECT')}}}}}<tool|>"
    )


def call(name: str, arguments: dict) -> str:
    """A tool call as the model writes it."""
    return f"<|tool_call>call:{name}{mapping(arguments)}<tool_call|>"


def response(name: str, values) -> str:
    """A tool's result, without the <|tool_response> the model itself has already written."""
    body = mapping(values if isinstance(values, dict) else {"value": values})
    return f"response:{name}{body}<tool_response|>"


def conversation(turns, system="", tools=(), thinking=False, learn_from=0) -> list:
    """Render (user, model) turns to parts.

    A model turn is a string, or a list of (text, learn) for tool loops. Only turns with index
    >= learn_from are learned.
    """
    head = "<bos>"
    if system or tools or thinking:
        think = "<|think|>\n" if thinking else ""
        head += f"<|turn>system\n{think}{system}{''.join(map(declaration, tools))}<turn|>\n"
    parts = [(head, False)]
    for i, (user, model) in enumerate(turns):
        parts.append((f"<|turn>user\n{user}<turn|>\n<|turn>model\n", False))
        pieces = [(model, True)] if isinstance(model, str) else list(model)
        text, learn = pieces[-1]
        pieces[-1] = (text + "<turn|>", learn)
        parts += [(text, learn and i >= learn_from) for text, learn in pieces]
        parts.append(("\n", False))
    if parts[-1] == ("\n", False):
        parts.pop()
    return parts
