"""Traces with the layers, heads, experts and lengths of released models, made without weights.

    python tests/true_shapes.py 31B 8153 out.g4trace [--retain none] [--chunk 2048]

What is drawn, sent and saved at full size is tested with these. The text is a conversation in many
scripts with code, a picture of 280 soft tokens and, for E2B, a sound of 750. Attention is recorded
by the package's own recorder from invented queries and keys, so every number fits every other:
each layer has a few distinct heads of 16 numbers, which stand for all its heads, padded to the
model's own size. Sizes come from the models' configuration files, where these are at hand.
"""

import argparse
import hashlib
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import sentences

import gemma4_mlx  # noqa: F401  (loads OpenBLAS before anything imports mlx.core)
from gemma4_mlx.config import Gemma4Config
from gemma4_mlx.tracing import AttentionPlan, RoutingData, Tokens, Trace
from gemma4_mlx.tracing.data.tokens import KINDS, roles_of

REFERENCE = Path(__file__).parent.parent.parent / "shared" / "reference"
MODELS = ("E2B", "26B-A4B", "31B")
GRID, PATCH = (14, 20), 48  # 280 soft tokens of a picture of 960 x 672 pixels
SOUND = 750  # soft tokens of 40 ms: half a minute
SIZE = 16  # numbers of an invented query or key
CODE = [
    'def attend(q, k, v):\n    """softmax(q k^T) v"""\n    return softmax(q @ k.T) @ v\n',
    "fn push(&mut self, item: T) -> Result<()> {\n    self.items.push(item);\n    Ok(())\n}\n",
    "SELECT layer, expert, COUNT(*) FROM routing GROUP BY layer, expert LIMIT 8;\n",
    '<script>alert("a & b </script>");</script>\n',
]
NOTE, QUESTION = "Note: the code of the harbour is 582.\n", "What is the code of the harbour?\n"
THOUGHT = "The user asks for the code. It stands right after the picture, so I quote it. "
ANSWER = "The code of the harbour is 582. The picture shows boats at dawn. "


def config_of(name: str) -> Gemma4Config:
    """A released model's configuration. Raises FileNotFoundError where it is not at hand."""
    return Gemma4Config.from_file(REFERENCE / f"config_gemma-4-{name}-it.json")


def make_tokens(config: Gemma4Config, n: int, seed: int = 0) -> tuple[Tokens, np.ndarray]:
    """A conversation of ``n`` tokens, at least 1,600, and each one's section: (n,) int."""
    rng, section = np.random.default_rng(seed), 0
    rows: list[tuple] = []  # text, kind, box, time, medium, section

    def add(text, kind="text", box=(np.nan,) * 4, span=(np.nan,) * 2, medium=-1):
        rows.append((text, KINDS.index(kind), box, span, medium, section))

    def say(text):
        for word in re.findall(r"\n| ?[^\W\d_]{1,7}|\d| ?[^\w\s]|.", text, re.DOTALL):
            add(word)

    def control(*texts):
        for text in texts:
            add(text, "special")

    control("<bos>", "<|turn>")
    say("user\n")
    control("<|image>")
    for i in range(GRID[0] * GRID[1]):
        y, x = divmod(i, GRID[1])
        box = (x * PATCH, y * PATCH, (x + 1) * PATCH, (y + 1) * PATCH)
        add("<|image|>", "image", box=box, medium=0)
    control("<image|>")
    sound = config.audio is not None
    if sound:
        control("<|audio>")
        for i in range(SOUND):
            add("<|audio|>", "audio", span=(0.04 * i, 0.04 * i + 0.04), medium=1)
        control("<audio|>")
    section = 1
    say(NOTE)
    written = list(sentences.SENTENCES.values())
    while len(rows) < n - max(300, n // 8):
        section = int(rng.integers(2, 2 + len(written) + 1))
        if section == 2:
            say(CODE[rng.integers(len(CODE))])
        else:
            say(written[section - 3] + "\n")
    del rows[n - max(300, n // 8) :]
    section = 1
    say(QUESTION)
    control("<turn|>", "<|turn>")
    say("model\n")
    control("<|channel>")
    while len(rows) < n - max(150, n // 20):
        say(THOUGHT)
    control("<channel|>")
    while len(rows) < n - 1:
        say(ANSWER)
    del rows[n - 1 :]
    control("<turn|>")
    texts, kinds, boxes, times, media, sections = zip(*rows)
    ids = [_id(text) for text in texts]
    soft = {"image": config.image_token_id, "audio": config.audio_token_id}
    ids = [soft.get(KINDS[kind], i) for i, kind in zip(ids, kinds)]
    roles = roles_of(texts, [kind == KINDS.index("special") for kind in kinds])
    labels = ["harbour.jpg", "interview.wav"][: 1 + sound]
    tokens = Tokens(ids, texts, kinds, roles, boxes, times, media, labels)
    return tokens, np.array(sections)


def _id(text: str) -> int:
    """The same id for the same text, the same in every process."""
    return int.from_bytes(hashlib.md5(text.encode()).digest()[:4], "little") % 200_000 + 300


def make_media(sound: bool) -> list[np.ndarray]:
    """The picture and, with ``sound``, the clip of :func:`make_tokens`."""
    y, x = np.mgrid[: GRID[0] * PATCH, : GRID[1] * PATCH]
    picture = np.stack([x / 4, y / 3, 255 - x / 4], -1).astype(np.uint8)
    t = np.arange(SOUND * 640) / 16_000
    clip = (np.sin(2 * np.pi * 220 * t) * np.abs(np.sin(t))).astype(np.float32)
    return [picture, clip][: 1 + sound]


def make_attention(
    config: Gemma4Config, tokens: Tokens, retain="full", chunk: int = 2048, seed: int = 1
):
    """Attention of ``tokens`` in the model's layers and heads, recorded chunk by chunk."""
    import mlx.core as mx

    from gemma4_mlx.model.attention import AttentionGeometry
    from gemma4_mlx.model.decoder import image_blocks
    from gemma4_mlx.tracing.recording.attention import AttentionRecorder

    text, n = config.text, len(tokens)
    groups = min(2, *(text.kv_heads_of(i) for i in range(text.num_hidden_layers)))
    small = replace(
        text,
        num_attention_heads=2 * groups,
        num_key_value_heads=groups,
        num_global_key_value_heads=groups,
        head_dim=SIZE,
        global_head_dim=SIZE,
    )
    model = SimpleNamespace(config=SimpleNamespace(text=small), dtype=mx.bfloat16)
    plan = AttentionPlan(retain=retain, storage="memory")
    recorder = AttentionRecorder(model, plan, n)
    kinds = {kind: tokens.of_kind(kind) for kind in ("image", "video", "audio")}
    marks = {kind: mark for kind, mark in kinds.items() if mark.any()}
    blocks = None
    if text.use_bidirectional_attention == "vision":
        blocks = image_blocks(mx.array(tokens.ids)[None], (config.image_token_id,))
    for start in range(0, n, chunk):
        stop = min(start + chunk, n)
        for layer in range(text.num_hidden_layers):
            window = None if text.is_full(layer) else text.sliding_window
            first = 0 if window is None else max(0, start - window + 1)
            geometry = AttentionGeometry(
                query_start=start,
                n=stop - start,
                key_start=first,
                m=stop - first,
                window=window,
                blocks=None if blocks is None or window is None else blocks[:, start:stop],
            )
            donor = text.kv_donor(layer)
            keys = _keys(tokens, groups, slice(first, stop), np.random.default_rng((seed, donor)))
            rng = np.random.default_rng((seed, layer, 7))
            queries = _queries(tokens, groups, slice(start, stop), rng, (seed, donor))
            for name, value in (("queries", queries), ("keys", keys)):
                value = mx.array(value[None]).astype(mx.bfloat16)
                known = {kind: mark[:stop] for kind, mark in marks.items()}
                recorder.observe(name, layer, value, geometry, tokens.ids[:stop], known)
    attention = recorder.result(n)
    for part in attention.parts:
        _widen(part, text)
    return attention


def _features(tokens: Tokens, rows: slice, rng) -> tuple[np.ndarray, np.ndarray]:
    """Where a token stands, (r, 8), and which word it is, (r, 5)."""
    turns = np.arange(rows.start, rows.stop)[:, None] / np.array([2.0, 15.0, 120.0, 1000.0])
    words = rng.normal(size=(509, 5))[tokens.ids[rows] % 509]
    return np.concatenate([np.cos(turns), np.sin(turns)], 1), words


def _keys(tokens: Tokens, groups: int, rows: slice, rng) -> np.ndarray:
    """(groups, r, SIZE): place, word, soft or not, first or not."""
    place, words = _features(tokens, rows, rng)
    soft = np.isin(tokens.kinds[rows], (1, 2, 3))[:, None]
    first = (np.arange(rows.start, rows.stop) == 0)[:, None]
    own = [np.full((len(place), 1), 0.1 * g) for g in range(groups)]
    return np.stack([np.concatenate([place, words, soft, first, g], 1) for g in own])


def _queries(tokens: Tokens, groups: int, rows: slice, rng, key_seed) -> np.ndarray:
    """(2 groups, r, SIZE): each head weighs place, word, soft tokens and the first its own way."""
    place, words = _features(tokens, rows, np.random.default_rng(key_seed))
    out = []
    for _ in range(2 * groups):
        near = rng.choice([0.3, 1.5, 4.0]) * rng.random(4)
        weights = np.concatenate([near, near, np.full(5, rng.choice([0.1, 0.9]))])
        rest = np.broadcast_to([rng.uniform(-1, 3), rng.uniform(0, 9), 1.0], (len(place), 3))
        out.append(np.concatenate([np.concatenate([place, words], 1) * weights, rest], 1))
    return np.stack(out)


def _widen(part, text) -> None:
    """Let a layer's few heads stand for all that the model has, at its size."""
    heads, kv = text.num_attention_heads, text.kv_heads_of(part.layer)
    groups, group = part.kv_heads, heads // kv
    like = np.arange(kv) % groups
    pick = np.array([2 * like[h // group] + h % group % 2 for h in range(heads)])
    for name in ("normaliser", "mass", "peak", "columns", "offset_mass", "queries"):
        if (array := getattr(part, name)) is not None:
            setattr(part, name, array[pick])
    for name in ("link_queries", "link_keys", "link_weights"):
        setattr(part, name, getattr(part, name)[pick])
    part.statistics = {name: sums[pick] for name, sums in part.statistics.items()}
    if part.keys is not None:
        part.keys = part.keys[like]
    room = [(0, 0), (0, 0), (0, text.head_dim_of(part.layer) - SIZE)]
    for name in ("queries", "keys"):
        if getattr(part, name) is not None:
            setattr(part, name, np.pad(getattr(part, name), room))
    part.heads, part.all_heads, part.kv_heads = tuple(range(heads)), heads, kv
    part.kept = part.heads if part.queries is not None else ()


def make_routing(config: Gemma4Config, tokens: Tokens, sections, seed: int = 2, shift: float = 0.0):
    """Chosen experts of every token: by its section, its word and chance. With ``shift`` the
    sections prefer other experts, as much as that. Three experts of each layer are never chosen."""
    text = config.text
    experts, k, n = text.num_experts, text.top_k_experts, len(tokens)
    ids = np.zeros((text.num_hidden_layers, n, k), np.uint8 if experts <= 256 else np.uint16)
    weights = np.zeros(ids.shape, np.float32)
    for layer in range(text.num_hidden_layers):
        rng = np.random.default_rng((seed, layer))
        base = rng.normal(size=experts)
        base[rng.choice(experts, 3, replace=False)] -= 50
        by_section = rng.normal(size=(64, experts)) + shift * rng.normal(size=experts)
        by_word = rng.normal(size=(509, experts))
        for start in range(0, n, 8192):
            rows = slice(start, min(n, start + 8192))
            scores = base + by_section[sections[rows] % 64] + by_word[tokens.ids[rows] % 509]
            scores += rng.normal(size=scores.shape) / 2
            best = np.argpartition(-scores, k, axis=1)[:, :k]
            chosen = np.take_along_axis(scores, best, 1)
            order = np.argsort(-chosen, axis=1)
            ids[layer, rows] = np.take_along_axis(best, order, 1)
            chosen = np.exp(np.take_along_axis(chosen, order, 1))
            weights[layer, rows] = chosen / chosen.sum(1, keepdims=True)
    return RoutingData(range(text.num_hidden_layers), ids, weights, experts, tokens)


def make_trace(
    name: str, n: int, *, attention: bool = True, retain="full", chunk: int = 2048, seed: int = 0
) -> Trace:
    """A trace of ``n`` tokens in the shape of one of :data:`MODELS`; ``retain`` as in a plan.

    Raises FileNotFoundError where that model's configuration is not at hand.
    """
    config = config_of(name)
    tokens, sections = make_tokens(config, n, seed)
    trace = Trace(tokens, model={"source": f"true shape of {name}", "fingerprint": name})
    if config.text.enable_moe_block:
        trace.routing = make_routing(config, tokens, sections, seed + 2, shift=seed / 4)
    if attention:
        trace.attention = make_attention(config, tokens, retain, chunk, seed + 1)
    trace.media = make_media(config.audio is not None)
    return trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("tokens", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--retain", default="full", choices=["full", "all", "none"])
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-attention", action="store_true")
    args = parser.parse_args()
    began = time.perf_counter()
    trace = make_trace(
        args.model,
        args.tokens,
        attention=not args.no_attention,
        retain=args.retain,
        chunk=args.chunk,
        seed=args.seed,
    )
    trace.save(args.file)
    size = args.file.stat().st_size / 2**20
    print(f"{args.file}: {trace}, {size:,.0f} MiB, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
