"""The mix of skills, and samples as padded batches of tensors.

Training data is drawn without end from one seed; held-out data by the same makers with the
split turned over (render.held_out). Media goes through the reference's own preprocessing.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import borders, pictures, recall, sounds, talk, tools
from .architecture import CONFIG, PROCESSOR, VISION
from .render import Sample

DOMAINS = ["chat", "languages", "arithmetic", "code", "needle", "tools", "image", "audio"]
PICTURE, COPY = 0, 1  # why a head is to look somewhere
MAKERS = {
    "chat": talk.chat, "count": talk.count, "sentence": talk.sentence, "sums": talk.sums,
    "drill": talk.drill, "chain": talk.chain, "two_step": talk.two_step, "code": talk.code,
    "needle": recall.needle, "tools": tools.tools, "toolbox": tools.toolbox,
    "considered": tools.considered, "worded": tools.worded, "unneeded": tools.unneeded,
    "amid": tools.amid, "border": borders.border, "meet": borders.meet, "mixed": borders.mixed,
    "digits": borders.digits, "either": talk.either,
    "scene": pictures.scene, "grid": pictures.grid, "quiz": pictures.quiz,
    "digit": pictures.digit, "tones": sounds.tones, "speech": sounds.speech,
}  # fmt: skip


def make(name: str, rng, split: str = "train", **options) -> Sample:
    """Draw one sample of a skill that belongs to the split."""
    while True:
        if name == "speech":
            return sounds.speech(rng, split)
        sample = MAKERS[name](rng, **options)
        if sample.belongs_to(split):
            return sample


def corpus(seed: int = 1) -> list[str]:
    """Texts the tokenizer learns from: every domain, the tables, and every visible character."""
    rng = np.random.default_rng(seed)
    texts = []
    weights = {"chat": 500, "count": 500, "sentence": 900, "sums": 60, "drill": 30, "two_step": 60,
               "code": 500, "needle": 120, "tools": 500}  # fmt: skip
    for name, count in weights.items():
        for _ in range(count):
            texts.append("".join(text for text, _ in make(name, rng).parts))
    words = [*talk.NOUNS, *talk.ADJECTIVES, *talk.PEOPLE, *talk.CITIES, *talk.NUMBER_WORDS]
    texts += [f"a {word} {word}" for word in words] * 35
    texts += [f"({word} {word}s" for word in talk.NOUNS] * 6
    texts += [f"{name} {name}, {name}" for name in [*talk.PEOPLE, *talk.CITIES]] * 12
    for lang in talk.LANGUAGES:
        texts += [lang.sep.join(lang.numbers)] * 25
    scene = [*pictures.SHAPES, *pictures.COLOURS, *pictures.PLACES, "picture image shape colour"]
    for word in scene:
        texts += [f"The {word} {word}. {word.capitalize()} Which What"] * 25
    for _ in range(60):
        for name in ("scene", "grid", "digit", "tones", "speech"):
            texts.append("".join(text for text, _ in make(name, rng).parts))
    texts.append(" ".join(chr(i) for i in range(33, 127)))
    texts += [f" {digit} {digit}{digit}" for digit in range(10)] * 50
    return texts


def whole_words() -> list[str]:
    """The words that are one token with and without a space before them."""
    return [*talk.NOUNS, *talk.ADJECTIVES, *talk.PEOPLE, *talk.CITIES, *pictures.SHAPES,
            *pictures.COLOURS]  # fmt: skip


def soft_tokens(height: int, width: int) -> tuple[int, int]:
    """The size a picture is resized to: (rows, columns) of soft tokens. 96 x 96 -> 8 x 8."""
    side = VISION["patch_size"] * VISION["pooling_kernel_size"]
    budget = PROCESSOR["image_processor"]["max_soft_tokens"]
    factor = np.sqrt(budget * side**2 / (height * width))
    rows, columns = int(factor * height // side), int(factor * width // side)
    assert rows and columns, "teaching pictures are not that elongated"
    return rows, columns


def patches(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resize and cut: uint8 (h, w, 3) -> (patches, 192) in [0, 1], (patches, 2) positions."""
    from PIL import Image

    p, k = VISION["patch_size"], VISION["pooling_kernel_size"]
    rows, columns = soft_tokens(*picture.shape[:2])
    size = (columns * p * k, rows * p * k)
    image = Image.fromarray(picture)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float32) / 255
    grid = pixels.reshape(rows * k, p, columns * k, p, 3).transpose(0, 2, 1, 3, 4)
    x, y = np.meshgrid(np.arange(columns * k), np.arange(rows * k))
    return grid.reshape(rows * k * columns * k, -1), np.stack([x, y], -1).reshape(-1, 2)


class Encoder:
    """Samples to token ids and media arrays."""

    def __init__(self, tokenizer):
        from transformers.models.gemma4.feature_extraction_gemma4 import (
            Gemma4AudioFeatureExtractor,
        )

        self.tokenizer = tokenizer
        options = dict(PROCESSOR["feature_extractor"])
        options.pop("feature_extractor_type")
        self.mel = Gemma4AudioFeatureExtractor(**options)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def spoken_digit(self, sample: "Encoded") -> int:
        """What a sample of sounds.speech says."""
        words = np.array(sample.ids)[sample.learn].tolist()
        return sounds.NUMBERS.index(self.tokenizer.decode(words).strip(". ").lower())

    def features(self, clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mel frames (t, 128) and their mask (t,), as the product's front end makes them."""
        out = self.mel([clip], sampling_rate=sounds.RATE, return_tensors="np", padding="longest")
        return out["input_features"][0], out["input_features_mask"][0].astype(bool)

    def __call__(self, sample: Sample) -> "Encoded":
        images = [patches(picture) for picture in sample.images]
        audio = [self.features(clip) for clip in sample.audio]
        shown, heard, about = iter(images), iter(audio), iter(sample.looks)
        ids, learn, looks, first = [], [], [], 0
        spots = []  # of each part's tokens: (first character, end, position)
        for text, wanted in sample.parts:
            start = len(ids)
            text = text.replace("<|image|>", "<|image><|image|><image|>")
            text = text.replace("<|audio|>", "<|audio><|audio|><audio|>")
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
            spots.append([])
            for token, characters in zip(encoding.ids, encoding.offsets, strict=True):
                spots[-1].append((*characters, len(ids)))
                n = 1
                if token == CONFIG["image_token_id"]:
                    n = len(next(shown)[0]) // VISION["pooling_kernel_size"] ** 2
                    first = len(ids)
                elif token == CONFIG["audio_token_id"]:
                    n = int(next(heard)[1][::2][::2].sum())
                ids += [token] * n
                learn += [wanted] * n
            if wanted and (seen := next(about, [])):
                # Up to the answer's last word; a full stop and the turn's end come after it.
                seen = [first + i for i in seen]
                looks += [(PICTURE, row, seen) for row in range(start - 1, len(ids) - 3)]
        for part, to, source, begin, n in sample.copies:
            for a, b, position in spots[part]:
                a, b = max(a, to), min(b, to + n)  # a word's token begins with its space
                if a < b:
                    shift = begin - to
                    seen = [p for c, d, p in spots[source] if c < b + shift and d > a + shift]
                    looks.append((COPY, position - 1, seen))
        return Encoded(ids, learn, DOMAINS.index(sample.domain), images, audio, looks)


@dataclass
class Encoded:
    ids: list[int]
    learn: list[bool]
    domain: int
    images: list = ()
    audio: list = ()
    looks: list = ()  # (PICTURE or COPY, position, the positions to look at from there)


def raw(maker, rng, keys, values) -> Encoded:
    """Pairs and repeats: ready-made token ids."""
    ids, positions = maker(rng, keys, values)
    learn = np.zeros(len(ids), bool)
    learn[positions] = True
    return Encoded(ids, learn.tolist(), DOMAINS.index("needle"))


class Stream:
    """Endless training samples from one seed.

    Sounds are slow to make, so `pools` names how many of each are made once, kept in the work
    folder, and drawn again and again.
    """

    def __init__(self, tokenizer, seed: int, pools: dict[str, int], work: Path):
        self.encode = Encoder(tokenizer)
        self.seed, self.sizes, self.work = seed, pools, work
        self.pools = {}
        self.words = [self._single(talk.NOUNS), self._single([*talk.ADJECTIVES, *talk.CITIES])]

    def _single(self, words) -> np.ndarray:
        """The ids of those words that are one token (with the space before them)."""
        ids = [self.encode.ids(" " + word) for word in words]
        return np.array([i[0] for i in ids if len(i) == 1])

    def pool(self, name: str) -> list[Encoded]:
        """The pool of one skill: read back, or made."""
        if name not in self.pools:
            path = self.work / f"pool-{name}-{self.sizes[name]}.pickle"
            if not path.exists():
                rng = np.random.default_rng(self.seed)
                items = [self.encode(make(name, rng)) for _ in range(self.sizes[name])]
                path.with_suffix(".new").write_bytes(pickle.dumps(items, protocol=5))
                path.with_suffix(".new").rename(path)
            self.pools[name] = pickle.loads(path.read_bytes())
        return self.pools[name]

    def sample(self, name: str, rng) -> Encoded:
        if name == "pairs":
            return raw(recall.pairs, rng, *self.words)
        if name == "repeat":
            return raw(recall.repeat, rng, *self.words)
        if name in self.sizes:
            items = self.pool(name)
            return items[int(rng.integers(len(items)))]
        if ":" in name:  # needle:600 has about 600 tokens
            name, tokens = name.split(":")
            return self.encode(make(name, rng, tokens=int(tokens)))
        return self.encode(make(name, rng))

    def step(self, number: int, mix: dict[str, float], tokens: int) -> list[Encoded]:
        """The samples of one step: a function of the seed and the step's number alone."""
        rng = np.random.default_rng((self.seed, number))
        names = list(mix)
        weights = np.array([mix[name] for name in names])
        total, samples = 0, []
        while total < tokens:
            sample = self.sample(names[rng.choice(len(names), p=weights / weights.sum())], rng)
            samples.append(sample)
            total += len(sample.ids)
        return samples


ROW = 320  # tokens of a row of packed samples


def pack(samples: list[Encoded], length: int) -> list[list[int]]:
    """First fit, longest first: rows of sample numbers, each of at most `length` tokens in all.

    A longer sample has a row of its own.
    """
    rows, left = [], []
    for i in sorted(range(len(samples)), key=lambda i: -len(samples[i].ids)):
        n = len(samples[i].ids)
        row = next((r for r, free in enumerate(left) if free >= n), None)
        if row is None:
            row = len(rows)
            rows.append([])
            left.append(length)
        rows[row].append(i)
        left[row] -= n
    return rows


def batches(samples: list[Encoded], budget: int, row: int = ROW):
    """Pack samples into rows, and rows into micro-batches of at most `budget` padded tokens."""

    def tokens(members):
        return sum(len(samples[i].ids) for i in members)

    group = []
    for members in sorted(pack(samples, row), key=tokens, reverse=True):
        if group and tokens(group[0]) * (len(group) + 1) > budget:
            yield collate(samples, group)
            group = []
        group.append(members)
    if group:
        yield collate(samples, group)


def collate(samples: list[Encoded], rows: list[list[int]] | None = None) -> dict:
    """Right-padded tensors of a micro-batch, with the masks the reference would build.

    `rows` says which samples stand in which row (none: one in each). Packed samples do not see
    each other, and each begins at position 0.

    ids, learn, positions, sample, domain (B, L): of each token, its sample's number (-1: padding)
    and its domain; full and sliding (B, 1, L, L) bool, or full = None where causal is enough;
    pictures see themselves whole inside sliding layers; pixels (N, P, 192), places (N, P, 2);
    mel (M, T, 128), mel_mask; looking (K, 3): row, position and PICTURE or COPY; looked_at (K, L)
    bool.
    """
    import torch

    rows = [[i] for i in range(len(samples))] if rows is None else rows
    inside = [samples[i] for members in rows for i in members]
    B, L = len(rows), max(sum(len(samples[i].ids) for i in row) for row in rows)
    ids, learn = np.zeros((B, L), np.int64), np.zeros((B, L), bool)
    positions, number = np.zeros((B, L), np.int64), np.full((B, L), -1)
    domain = np.full((B, L), -1)
    looking, looked_at = [], []
    for row, members in enumerate(rows):
        start = 0
        for i in members:
            s = samples[i]
            here = np.s_[row, start : start + len(s.ids)]
            ids[here], learn[here], number[here], domain[here] = s.ids, s.learn, i, s.domain
            positions[here] = np.arange(len(s.ids))
            for why, position, seen in s.looks:
                looking.append((row, start + position, why))
                looked_at.append(np.isin(np.arange(L), np.add(seen, start)))
            start += len(s.ids)
    i = np.arange(L)
    near = (i[:, None] - i[None]) < CONFIG["text_config"]["sliding_window"]
    causal = np.broadcast_to((i[:, None] >= i[None])[None], (B, L, L))
    if packed := any(len(members) > 1 for members in rows):
        causal = causal & (number[:, :, None] == number[:, None])
    sliding = causal & near
    if any(s.images for s in inside):
        picture = ids == CONFIG["image_token_id"]
        block = np.where(picture, np.cumsum(np.diff(picture, axis=1, prepend=False), 1), -1)
        same = picture[:, :, None] & (block[:, :, None] == block[:, None])
        sliding = sliding | (same & near[None])
    out = {
        "ids": torch.from_numpy(ids),
        "learn": torch.from_numpy(learn),
        "positions": torch.from_numpy(positions),
        "sample": torch.from_numpy(number),
        "domain": torch.from_numpy(domain),
        "full": torch.from_numpy(causal)[:, None] if packed else None,
        "sliding": torch.from_numpy(sliding)[:, None],
    }
    if looking:
        out["looking"] = torch.tensor(looking)
        out["looked_at"] = torch.from_numpy(np.stack(looked_at))
    images = [image for s in inside for image in s.images]
    if images:
        most = max(len(p) for p, _ in images)
        pixels = np.zeros((len(images), most, images[0][0].shape[1]), np.float32)
        places = np.full((len(images), most, 2), -1, np.int64)
        for j, (p, where) in enumerate(images):
            pixels[j, : len(p)], places[j, : len(p)] = p, where
        out["pixels"], out["places"] = torch.from_numpy(pixels), torch.from_numpy(places)
    clips = [clip for s in inside for clip in s.audio]
    if clips:
        out["mel"], out["mel_mask"] = map(torch.from_numpy, pad_clips(clips))
    return out


def pad_clips(clips: list) -> tuple[np.ndarray, np.ndarray]:
    """Frames and masks of M clips, padded: float32 (M, T, 128), bool (M, T)."""
    most = max(len(f) for f, _ in clips)
    mel = np.zeros((len(clips), most, clips[0][0].shape[1]), np.float32)
    mask = np.zeros((len(clips), most), bool)
    for j, (f, m) in enumerate(clips):
        mel[j, : len(f)], mask[j, : len(m)] = f, m
    return mel, mask
