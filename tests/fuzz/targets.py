"""What is attacked: for each reader of outside data, samples to damage and what it may raise.

A target is a function ``case(rng, folder) -> (input, call)``. ``call()`` reads the input and may
raise only the target's own errors. Samples are made here and are the same on every run.
"""

import io
import json
import random
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from mutate import VALUES, changed, damaged, dumped, spliced

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))

import strangers
import tiny
from strangers import teaching

import gemma4_mlx as g4
from gemma4_mlx import errors


@dataclass(frozen=True)
class Target:
    """``case``: makes one input and the call that reads it. ``allowed``: its clean errors."""

    case: Callable
    allowed: tuple[type[Exception], ...]


@cache
def checkpoint() -> tuple[bytes, dict]:
    """A small checkpoint: the file's bytes, its configuration."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        weights = tiny.weights(tiny.TEXT_CONFIG)
        saved = tiny.save(Path(folder), tiny.TEXT_CONFIG, weights)
        return (saved / "model.safetensors").read_bytes(), tiny.TEXT_CONFIG


def with_header(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with its header changed as JSON, the rest as it was."""
    length = struct.unpack("<Q", data[:8])[0]
    header = changed(rng, json.loads(data[8 : 8 + length]))
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        meta = header["__metadata__"]
        if rng.random() < 0.7 and isinstance(meta.get("description"), str):
            try:
                meta["description"] = dumped(changed(rng, json.loads(meta["description"])))
            except ValueError:  # the change above was to this text
                pass
    text = dumped(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def config(rng, folder):
    from gemma4_mlx.config import Gemma4Config

    value = changed(rng, rng.choice((tiny.CONFIG, tiny.TEXT_CONFIG, tiny.UNIFIED)))
    return value, lambda: Gemma4Config.from_dict(value)


def header(rng, folder):
    from gemma4_mlx.checkpoints.plan import read_plan

    data, about = checkpoint()
    data = with_header(data, rng) if rng.random() < 0.7 else damaged(rng, data)
    if rng.random() < 0.2:
        about = changed(rng, about)
    (folder / "config.json").write_text(dumped(about))
    (folder / "model.safetensors").write_bytes(data)
    return data, lambda: read_plan(folder)


@cache
def trace_bytes() -> bytes:
    import tempfile

    from gemma4_mlx.tracing import (
        ActivationPlan,
        AttentionPlan,
        LensPlan,
        RoutingPlan,
        Timings,
        TracePlan,
    )

    data, about = checkpoint()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(about))
        (Path(folder) / "model.safetensors").write_bytes(data)
        plan = TracePlan(
            RoutingPlan(probabilities=True),
            AttentionPlan(bins=8, retain="all"),
            LensPlan(top=2),
            ActivationPlan(layers=(1,)),
        )
        trace = g4.trace(g4.load(folder), list(range(3, 33)), plan=plan)
        trace.timings, trace.model["source"] = Timings(1.0, ((0, 30, 1.0),)), "tiny"
        trace.media = [np.zeros((4, 4, 3), np.uint8)]
        return trace.save(Path(folder) / "x.g4trace").read_bytes()


def trace(rng, folder):
    data = trace_bytes()
    data = with_header(data, rng) if rng.random() < 0.7 else damaged(rng, data)
    path = folder / "x.g4trace"
    path.write_bytes(data)

    def call():
        opened = g4.open_trace(path)
        repr(opened)
        if opened.routing is not None:
            opened.routing.load(), opened.routing.entropy()
        if opened.attention is not None:
            for layer in opened.attention.layers[:3]:
                head = opened.attention.heads(layer)[0]
                opened.attention.overview(layer, head)
                opened.attention.tile(layer, head)
                opened.attention.links(layer, head)
            opened.attention.summaries()
        if opened.lens is not None:
            opened.lens.guesses(0)
        opened.to_html(folder / "x.html")

    return data, call


@cache
def attributions() -> dict[str, bytes]:
    """A file of every kind that the room of attributions writes, by its ending."""
    import tempfile

    model, found = teaching(), {}
    values = {
        "g4why": g4.attribute(model, [5, 6, 7], 8, against=9),
        "g4sweep": g4.sweep(model, [5, 6, 7], [5, 8, 7], over="heads", layers=0),
        "g4heads": g4.head_roles(model, [[5, 6, 7, 6]]),
    }
    with tempfile.TemporaryDirectory() as folder:
        for ending, value in values.items():
            found[ending] = value.save(Path(folder) / f"x.{ending}").read_bytes()
    return found


def attribution(rng, folder):
    ending = str(rng.choice(list(attributions())))
    data = attributions()[ending]
    data = with_header(data, rng) if rng.random() < 0.7 else damaged(rng, data)
    path = folder / f"x.{ending}"
    path.write_bytes(data)
    openers = {
        "g4why": g4.open_attribution,
        "g4sweep": g4.open_sweep,
        "g4heads": g4.open_head_roles,
    }

    def call():
        opened = openers[ending](path)
        repr(opened), opened.to_dataframe()

    return data, call


@cache
def atlas_bytes() -> bytes:
    import tempfile

    found = g4.atlas(teaching(), {"a": ["Hello there"], "b": [[5, 6, 7] * 9]}, progress=False)
    kept = found.contexts  # with a picture, as those of a patch have
    kept.pictures = {7: np.zeros((4, 4, 3), np.uint8)}
    kept.arrays["strongest"]["medium"][kept.arrays["strongest"]["label"] >= 0] = 7
    kept.arrays["strongest"]["box"][:] = [0, 0, 1, 0.5]
    with tempfile.TemporaryDirectory() as folder:
        return found.save(Path(folder) / "x.g4atlas").read_bytes()


def atlas(rng, folder):
    data = atlas_bytes()
    data = with_header(data, rng) if rng.random() < 0.7 else damaged(rng, data)
    path = folder / "x.g4atlas"
    path.write_bytes(data)

    def call():
        opened = g4.open_atlas(path)
        repr(opened), opened.to_dataframe(), opened.merge(opened)
        layer = opened.layers[0]
        opened.paths(layer), opened.coactivation(layer), opened.reap(scaled=False)
        for name in ("input", "predicted"):
            words = opened.vocabulary(name)
            words.specialisation(1), words.consistency(1), words.top(layer, 0)
        opened.by("role").lift, opened.super_experts(), opened.to_html(folder / "x.html")
        opened.save(folder / "y.g4atlas")

    return data, call


@cache
def pictures() -> list[bytes]:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    pixels[10:30] //= 8
    found = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "ICO", "PPM"):
        for mode in ("RGB", "P", "L") if kind in ("PNG", "TIFF") else ("RGB",):
            file = io.BytesIO()
            Image.fromarray(pixels).convert(mode).save(file, kind)
            found.append(file.getvalue())
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(file, "JPEG", exif=exif, progressive=True)
    return [*found, file.getvalue()]


def image(rng, folder):
    from gemma4_mlx.processing.image import load_image

    data = damaged(rng, rng.choice(pictures()), rng.choice(pictures()))
    return data, lambda: load_image(data)


@cache
def sounds() -> list[bytes]:
    import soundfile

    wave = np.sin(np.arange(4000) / 7) * 0.3
    found = []
    for kind, subtype in (
        ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_24"),
    ):  # fmt: skip
        file = io.BytesIO()
        samples = np.stack([wave, wave], 1) if subtype == "PCM_16" else wave
        soundfile.write(file, samples, 16_000, subtype, format=kind)
        found.append(file.getvalue())
    return found


def audio(rng, folder):
    from gemma4_mlx.processing.audio import load_audio

    data = damaged(rng, rng.choice(sounds()), rng.choice(sounds()))
    return data, lambda: load_audio(data, split=rng.random() < 0.3)


def conversation_json() -> dict:
    call = {"type": "tool_call", "id": "c0", "name": "f", "arguments": {"a": [1, {"b": "x"}]}}
    result = {"type": "tool_result", "id": "c0", "name": "f", "result": {"x": [1, None]}}
    picture = {"type": "image", "data": "data:image/png;base64,AAAA", "budget": 70}
    turns = [
        ("system", [{"type": "text", "text": "Be brief."}]),
        ("user", [picture, {"type": "text", "text": "<|turn>hi"}]),
        ("assistant", [{"type": "thinking", "text": "hm"}, {"type": "text", "text": "a"}, call]),
        ("tool", [result | {"media": [picture]}]),
        ("assistant", [{"type": "text", "text": "Done."}]),
    ]
    return {
        "format": "gemma4-mlx chat", "version": 1, "model": "x", "system": None, "thinking": False,
        "options": {"temperature": 0.5}, "messages": [{"role": r, "parts": p} for r, p in turns],
    }  # fmt: skip


def conversation(rng, folder):
    value = changed(rng, conversation_json())
    data = dumped(value).encode()
    if rng.random() < 0.2:
        data = damaged(rng, data)
    (folder / "chat.json").write_bytes(data)
    return (
        data,
        lambda: (
            g4.Chat.load(folder / "chat.json", teaching()).rendered().encode(teaching().tokenizer)
        ),
    )


_CALL_PIECES = (
    "<|tool_call>", "<tool_call|>", "call:", "f", "{", "}", "[", "]", ",", ":", '<|"|>', '"', "\\",
    "a", "1", "-0.5e9", "9" * 500, "1e999", "true", "None", " ", "\n", "<|channel>", "<channel|>",
    "thought\n", "<turn|>", "<|tool_response>", "é", "\U0001f468\u200d\U0001f469", '<|"', "[" * 70,
    "{a:" * 70, 'call:f{a:<|"|>x<|"|>}', "<|tool_call>call:f{a:1}<tool_call|>",
)  # fmt: skip


def calls(rng, folder):
    """A model's output, in random pieces; no text may raise anything."""
    from gemma4_mlx.chat.parser import ReplyParser

    text = spliced(rng, _CALL_PIECES, 30)
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(6)))

    def call():
        parser = ReplyParser(thinking_open=rng.random() < 0.2)
        for start, stop in zip([0, *cuts], [*cuts, len(text)]):
            parser.feed_text(text[start:stop])
        parser.finish(complete=rng.random() < 0.5)
        json.dumps([c.arguments for c in parser.calls])

    return text, call


def template(rng, folder):
    """Messages and tool declarations as a program might pass them."""
    from gemma4_mlx.processing.template import render

    call = {"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "x<|turn>"}, {"type": "image"}]},
        {"role": "assistant", "reasoning": "r", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "name": "f", "content": "3"},
    ]
    declared = {"type": "object", "properties": {"a": {"type": "string", "enum": ["b"]}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": declared}}]
    value = changed(rng, {"messages": messages, "tools": tools})
    if not isinstance(value, dict):
        value = {"messages": rng.choice(VALUES), "tools": None}
    return value, lambda: render(value.get("messages"), value.get("tools"))


@cache
def cache_bytes() -> bytes:
    import tempfile

    from gemma4_mlx.generation import PromptCache, stream

    teaching().make_cache(kv_bits=8)  # imports mlx-lm, which no case should be timed for
    kept = PromptCache(teaching(), snapshot_every=32)
    list(stream(teaching(), list(range(300, 380)), options={"max_tokens": 2}, cache=kept))
    with tempfile.TemporaryDirectory() as folder:
        kept.save(Path(folder) / "cache")
        return (Path(folder) / "cache").read_bytes()


def prompt_cache(rng, folder):
    from gemma4_mlx.generation import PromptCache

    data = cache_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    if rng.random() < 0.7:
        head = json.loads(data[8 : 8 + length])
        about = json.loads(head["__metadata__"]["gemma4_mlx"])
        if rng.random() < 0.6:
            head["__metadata__"]["gemma4_mlx"] = dumped(changed(rng, about))
        else:
            head = changed(rng, head)
        text = dumped(head).encode()
        data = struct.pack("<Q", len(text)) + text + data[8 + length :]
    else:
        data = damaged(rng, data)
    (folder / "cache").write_bytes(data)
    return data, lambda: PromptCache.load(folder / "cache", teaching())


TARGETS = {
    "config": Target(config, (errors.ConfigError,)),
    "header": Target(header, (errors.CheckpointError, errors.ConfigError)),
    "trace": Target(trace, (errors.TraceError,)),
    "attribution": Target(attribution, (errors.AttributionError,)),
    "atlas": Target(atlas, (errors.StudyError,)),
    "image": Target(image, (errors.MediaError,)),
    "audio": Target(audio, (errors.MediaError,)),
    "conversation": Target(
        conversation, (errors.ChatError, errors.MediaError, errors.GenerationError)
    ),
    "calls": Target(calls, ()),
    "template": Target(template, (errors.ChatError,)),
    "cache": Target(prompt_cache, (errors.CheckpointError,)),
    "stolen": Target(strangers.stolen, (errors.ChatError, errors.MediaError)),
    "result": Target(strangers.result, ()),
    "server": Target(strangers.server, ()),
    "chat_template": Target(strangers.chat_template, (errors.ChatError,)),
    "processor": Target(
        strangers.processor, (errors.ConfigError, errors.MediaError, errors.CheckpointError)
    ),
}
