"""Small traces made from random vectors, with every part filled in exactly, without a model."""

from functools import partial

import numpy as np

from gemma4_mlx.attribution import Attribution
from gemma4_mlx.studies import Atlas
from gemma4_mlx.studies.data.counts import Subject
from gemma4_mlx.studies.data.pieces import Piece
from gemma4_mlx.tracing import AttentionData, LayerAttention, RoutingData, Tokens, Trace
from gemma4_mlx.tracing.data.tiles import pooled_weights
from gemma4_mlx.tracing.data.tokens import KINDS

WORDS = "the quick brown fox jumps over lazy dog and then שלום नमस्ते سلام a needle code 471".split()
TYPES = ["sliding", "sliding", "full", "sliding", "sliding", "full", "sliding", "full"]
DONORS = [0, 1, 2, 3, 4, 5, 4, 5]
WINDOW, HEADS, KV, DIM, EXPERTS = 64, 4, 2, 16, 16


def make_tokens(n: int, media: bool = True, seed: int = 0) -> Tokens:
    """A conversation of ``n`` tokens: system, user with a picture and a sound, thinking, answer."""
    rng = np.random.default_rng(seed)
    texts = [" " + WORDS[i] for i in rng.integers(0, len(WORDS), n)]
    ids = [100 + WORDS.index(t.strip()) for t in texts]
    kinds = np.zeros(n, np.uint8)
    roles = ["system"] * (n // 10) + ["user"] * (n // 2) + ["thinking"] * (n // 6)
    roles += ["model"] * (n - len(roles))
    texts[0], kinds[0], ids[0] = "<bos>", KINDS.index("special"), 2
    texts[5] = ".\n"
    boxes = np.full((n, 4), np.nan, np.float32)
    times = np.full((n, 2), np.nan, np.float32)
    numbers = np.full(n, -1, np.int16)
    labels = []
    if media and n >= 120:
        a, b = n // 4, n // 4 + 16
        kinds[a:b], numbers[a:b] = KINDS.index("image"), 0
        for k in range(16):
            texts[a + k], ids[a + k] = "<|image|>", 7
            boxes[a + k] = [k % 4 * 24, k // 4 * 24, k % 4 * 24 + 24, k // 4 * 24 + 24]
        c, d = n // 2, n // 2 + 20
        kinds[c:d], numbers[c:d] = KINDS.index("audio"), 1
        for k in range(20):
            texts[c + k], ids[c + k] = "<|audio|>", 8
            times[c + k] = [k * 0.04, k * 0.04 + 0.04]
        labels = ["cat.png", "meow.wav"]
    return Tokens(ids, texts, kinds, roles, boxes, times, numbers, labels)


def make_attention(
    n: int, bins: int = 64, needle: tuple | None = None, retain: bool = True, seed: int = 1
) -> AttentionData:
    """Exact attention of random vectors; ``needle`` (query, key): layer 2, head 1 looks there."""
    rng = np.random.default_rng(seed)
    width = -(-n // min(bins, n))
    edges = np.minimum(np.arange(0, n + width, width), n)
    keys = {i: rng.normal(size=(KV, n, DIM)).astype(np.float32) for i in set(DONORS)}
    layers = []
    for i, kind in enumerate(TYPES):
        queries = rng.normal(size=(HEADS, n, DIM)).astype(np.float32) * 0.8
        window = WINDOW if kind == "sliding" else None
        k = keys[DONORS[i]]
        if needle and i == 2:
            direction = k[0, needle[1]]
            queries[1, needle[0]] = 14 * direction / np.linalg.norm(direction) ** 2
        normaliser = np.empty((HEADS, n), np.float32)
        mass = np.zeros((HEADS, len(edges) - 1, len(edges) - 1), np.float32)
        peak = np.zeros_like(mass)
        links = []
        for h in range(HEADS):
            for start in range(0, n, 512):
                rows = np.arange(start, min(n, start + 512))
                scores = queries[h, rows] @ k[h // 2].T
                hidden = np.arange(n)[None] > rows[:, None]
                if window:
                    hidden |= np.arange(n)[None] <= rows[:, None] - window
                scores[hidden] = -1e30
                top = scores.max(1)
                normaliser[h, rows] = top + np.log(np.exp(scores - top[:, None]).sum(1))
            rows = partial(np.ndarray.__getitem__, queries[h])
            columns = partial(np.ndarray.__getitem__, k[h // 2])
            head = (rows, columns, normaliser[h], edges, edges, window)
            mass[h], peak[h] = pooled_weights(*head), pooled_weights(*head, maximum=True)
            links.append(needle if needle and (i, h) == (2, 1) else (n - 1, n - 2))
        layers.append(
            LayerAttention(
                layer=i,
                type=f"{kind}_attention",
                window=window,
                donor=DONORS[i],
                heads=tuple(range(HEADS)),
                all_heads=HEADS,
                kv_heads=KV,
                normaliser=normaliser,
                mass=mass,
                peak=peak,
                statistics={
                    name: np.full((HEADS, len(edges) - 1), value * width, np.float32)
                    for name, value in (("entropy", 2.5), ("first", 0.1 + i / 20), ("image", 0.2))
                },
                link_queries=np.array(links)[:, :1],
                link_keys=np.array(links)[:, 1:],
                link_weights=np.array(
                    [[0.9 if link == needle else 0.1] for link in links], np.float32
                ),
                queries=queries if retain else None,
                keys=k if retain and DONORS[i] == i else None,
            )
        )
    return AttentionData(n, width, layers)


def make_many_heads(
    layers: int = 60,
    heads: int = 32,
    every: int = 6,
    n: int = 1024,
    window: int = 128,
    seed: int = 0,
) -> Trace:
    """Very many heads over a short text, each ``every``-th layer a full one: overviews, summaries
    and links of plausible size without queries and keys. Layer 17, head 3 alone looks at the token
    before."""
    rng, bins = np.random.default_rng(seed), 32
    width = n // bins
    row, column = np.arange(bins)[:, None], np.arange(bins)
    parts = []
    for i in range(layers):
        full = (i + 1) % every == 0
        back = None if full else -(-(window - 1) // width)
        key = column[None] if full else row - back + np.arange(back + 1)[None]
        cells = rng.gamma(0.6, size=(heads, bins, key.shape[1])) * ((key <= row) & (key >= 0))
        mass = (cells / cells.sum(2, keepdims=True) * width).astype(np.float32)
        means = {
            "entropy": rng.normal(4 if full else 3, 0.3, heads).clip(0.5),
            "distance": np.exp(rng.normal(np.log(300 if full else 40), 0.2, heads)),
            "first": rng.beta(2, 8, heads),
            "previous": rng.beta(2, 20, heads),
            "image": rng.beta(2, 30, heads),
        }
        if i == 17:
            means["previous"][3 % heads] = 0.95
        sums = {name: (v[:, None] * np.full(bins, width)).astype("f4") for name, v in means.items()}
        parts.append(
            LayerAttention(
                layer=i,
                type="full_attention" if full else "sliding_attention",
                window=None if full else window,
                donor=i,
                heads=tuple(range(heads)),
                all_heads=heads,
                kv_heads=max(1, heads // 4),
                normaliser=np.zeros((heads, n), np.float32),
                mass=mass,
                peak=mass / width,
                back=back,
                statistics=sums,
                link_queries=np.full((heads, 1), n - 1),
                link_keys=np.full((heads, 1), n // 2 if full else n - 2),
                link_weights=rng.uniform(0.1, 0.5, (heads, 1)).astype(np.float32),
            )
        )
    tokens = make_tokens(n, seed=seed)
    return Trace(tokens, attention=AttentionData(n, width, parts), model={"source": "many heads"})


def make_routing(tokens: Tokens, seed: int = 2, bias: int = 0) -> RoutingData:
    """Two of sixteen experts for every token and layer; kinds and ``bias`` move the preferences."""
    rng = np.random.default_rng(seed)
    n = len(tokens)
    logits = rng.gumbel(size=(len(TYPES), n, EXPERTS))
    logits[:, np.arange(n), (np.asarray(tokens.kinds) * 3 + bias) % EXPERTS] += 2.5
    logits[:, :, EXPERTS - 1] -= 50  # an expert nobody uses
    order = np.argsort(-logits, axis=-1)[..., :2]
    chosen = np.take_along_axis(logits, order, -1)
    weights = np.exp(chosen - chosen.max(-1, keepdims=True))
    weights = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
    return RoutingData(range(len(TYPES)), order.astype(np.uint8), weights, EXPERTS, tokens)


def make_trace(n: int = 240, needle=None, seed: int = 0, bias: int = 0, **options) -> Trace:
    """A trace with tokens, routing and attention; ``options`` go to :func:`make_attention`."""
    tokens = make_tokens(n, seed=seed)
    return Trace(
        tokens,
        routing=make_routing(tokens, seed + 2, bias),
        attention=make_attention(n, needle=needle, **options),
        model={"source": "random vectors", "fingerprint": "test"},
    )


def make_media() -> list:
    """The picture and the sound of :func:`make_tokens`."""
    y, x = np.mgrid[:96, :96]
    picture = np.stack([x * 2.6, y * 2.6, 255 - x * 2.6], -1).astype(np.uint8)
    t = np.arange(12_800) / 16_000
    return [picture, (np.sin(2 * np.pi * 440 * t) * np.hanning(len(t))).astype(np.float32)]


def make_why(
    n: int = 240, layers: int = 8, heads: int = HEADS, seed: int = 0, **more
) -> Attribution:
    """An attribution of random shares, of the token at ``n - 40``, with a picture and a sound."""
    rng = np.random.default_rng(seed)

    def shares(*shape):
        return rng.standard_t(2, shape).astype(np.float32)

    weights = -np.sort(-rng.uniform(size=(layers, 2)).astype(np.float32))
    positions = shares(n)
    positions[n - 40 :] = 0
    tokens = make_tokens(n, seed=seed)
    return Attribution(
        **{
            "target": (int(tokens.ids[n - 40]), tokens.texts[n - 40]),
            "against": (5, " <b>other</b>"),
            "position": n - 40,
            "total": 3.25,
            "embedding": 0.5,
            "heads": shares(layers, heads),
            "mlp": shares(layers),
            "per_layer": shares(layers),
            "experts": shares(layers, 2),
            "expert_ids": rng.integers(0, EXPERTS, (layers, 2)).astype(np.int32),
            "expert_weights": weights,
            "positions": positions,
            "tokens": tokens,
            "media": make_media(),
            "method": "gradient",
            "model": {"source": "made up"},
            **more,
        }
    )


#: Labels of a made atlas, and words of their documents. One is what a hostile corpus may bring.
LABELS = {
    "code": ["def", " return", " x", " =", "(", ")", ":\n", "\t", "0"],
    "law": [" the", " party", " shall", " court", ",", ".", " hereby"],
    "sums": ["1", "2", "3", "4", " +", " =", "42"],
    "шутки": [" день", " ночь", " кот", "!", " ха"],
    "<b>أخبار</b>": [" سلام", " خبر", "<script>alert(1)</script>", "،"],
}


def make_atlas(
    layers: int = 4,
    experts: int = 16,
    k: int = 2,
    documents: int = 12,
    tokens: int = 40,
    vocabulary: int = 64,
    labels=LABELS,
    seed: int = 0,
) -> Atlas:
    """An atlas of a planted router: in every layer, expert number g is for label number g, in the
    order of ``labels``, and the last one is never chosen. The first label has pictures."""
    rng = np.random.default_rng(seed)
    words = list(dict.fromkeys(word for some in labels.values() for word in some))
    ids = rng.choice(np.arange(2, vocabulary), len(words), replace=False)
    id_of = dict(zip(words, ids.tolist()))
    model = {"source": "planted <i>router</i>", "fingerprint": "planted"}
    subject = Subject("planted", tuple(range(layers)), experts, k, vocabulary)
    scale = rng.uniform(0.6, 1.6, (layers, experts)).astype(np.float32)
    atlas = Atlas.empty(subject, labels, model, scale)
    atlas.texts = {id: word for word, id in id_of.items()}
    base = rng.normal(0, 0.8, (layers, 1, experts))
    base[..., -1] -= 60
    for g, (label, some) in enumerate(labels.items()):
        for _ in range(documents):
            said = [some[i] for i in rng.integers(0, len(some), tokens)]
            texts = Tokens([id_of[word] for word in said], said, roles=["user"] * tokens)
            logits = base + rng.gumbel(size=(layers, tokens, experts))
            logits += rng.normal(0, 0.4, (layers, 1, experts))  # a document's own taste
            logits[..., g] += 2
            chosen = np.argsort(-logits, axis=-1)[..., :k]
            share = np.sort(rng.dirichlet(np.ones(k), (layers, tokens)), axis=-1)[..., ::-1]
            picked = np.take_along_axis(scale[:, None], chosen, axis=-1)
            routing = RoutingData(
                range(layers), chosen.astype(np.uint8), (share * picked).astype(np.float32),
                experts, texts, None, scale, rng.gamma(2, 3, chosen.shape).astype(np.float32),
            )  # fmt: skip
            media = []
            if not g:
                y, x = np.mgrid[:96, :96]
                media = [np.stack([x * 2, y * 2, 255 - x], -1).astype(np.uint8)]
                texts.media[:2], texts.kinds[:2] = 0, KINDS.index("image")
                texts.boxes = np.full((tokens, 4), np.nan, np.float32)
                texts.boxes[:2] = [[0, 0, 48, 48], [48, 0, 96, 48]]
            trace = Trace(texts, routing, model=model, media=media)
            atlas.add(label, [Piece(trace)])
    tops = rng.choice(ids, (2, layers, experts, 10)).astype(np.int32)
    atlas.promoted, atlas.suppressed = tops
    return atlas
