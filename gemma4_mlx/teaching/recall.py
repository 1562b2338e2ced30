"""Looking things up: key-value pairs, and the needle in a long text.

A value stands directly after its key ("drum velvet", "drum 471"): the circuit then needs one
head that copies the previous token's identity and one full-attention head that matches it.
The answer names the key again, so that the head asks with the key as its previous token too.
"""

import numpy as np

from .render import Sample, conversation
from .tokenizer import FIRST_PIECE, VOCAB_SIZE
from .words import ADJECTIVES, CITIES, NOUNS, PEOPLE

_WAYS = ["near", "behind", "under", "beside", "above", "inside"]
_VERBS = ["sleeps", "waits", "stands", "rests", "shines", "moves", "turns", "hides", "sings"]


FEW = np.arange(FIRST_PIECE + 400, VOCAB_SIZE, 20)  # about 60 tokens from all over


def pairs(rng, keys: np.ndarray, values: np.ndarray) -> tuple[list[int], list[int]]:
    """Token ids and the positions to learn: key value key value ..., then all asked again.

    Half of the time the tokens are the words needles are made of, else few or all tokens of the
    vocabulary: a small set makes copying form, a large one keeps it from being about words.
    """
    n = int(rng.integers(2, 14))
    kind = rng.random()
    if kind >= 0.5:
        tokens = rng.permutation(FEW if kind < 0.75 else np.arange(FIRST_PIECE, VOCAB_SIZE))
        keys, values = tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :]
    keys, values = rng.choice(keys, n, replace=False), rng.choice(values, n, replace=False)
    ids, learn = [2], []
    for i in range(n):
        ids += [int(keys[i]), int(values[i])]
    for i in rng.permutation(n):
        ids += [int(keys[i]), int(values[i])]
        learn.append(len(ids) - 1)
    return ids, learn


def repeat(rng, keys: np.ndarray, values: np.ndarray) -> tuple[list[int], list[int]]:
    """Token ids and the positions to learn: a list of distinct tokens, said twice."""
    n = int(rng.integers(6, 20))
    kind = rng.random()
    pool = FEW if kind < 0.5 else keys if kind < 0.75 else np.arange(FIRST_PIECE, VOCAB_SIZE)
    tokens = [int(t) for t in rng.choice(pool, n, replace=False)]
    return [2, *tokens, 107, *tokens], list(range(n + 3, 2 * n + 2))


def filler(rng, words=NOUNS) -> str:
    """One sentence that has nothing to do with the question."""
    a, b = rng.choice(words, 2)
    kind = rng.integers(4)
    if kind == 0:
        return f"The {rng.choice(ADJECTIVES)} {a} {rng.choice(_VERBS)} {rng.choice(_WAYS)} the {b}."
    if kind == 1:
        return f"{rng.choice(PEOPLE)} has a {rng.choice(ADJECTIVES)} {a}."
    if kind == 2:
        return f"In {rng.choice(CITIES)} the {a} is {rng.choice(ADJECTIVES)}."
    return f"A {a} {rng.choice(_VERBS)} {rng.choice(_WAYS)} a {rng.choice(ADJECTIVES)} {b}."


def needle(rng, tokens=None, keys=None) -> Sample:
    """Pairs hidden in filler, then questions. `tokens`: how long (about), `keys`: how many."""
    if keys is None:
        keys = int(rng.integers(1, 9))
    if tokens is None:
        tokens = int(rng.choice([0, 20, 60, 120, 200, 300]))
    words = list(rng.permutation(NOUNS))
    asked, words = words[:keys], words[keys:]
    digits = rng.random() < 0.5
    pool = [str(v) for v in rng.choice(ADJECTIVES + CITIES, keys, replace=False)]
    values = [str(v) for v in rng.integers(100, 1000, keys)] if digits else pool
    lines = [f"Note: {k} {v}." for k, v in zip(asked, values, strict=True)]
    fill = [filler(rng, words) for _ in range(tokens // 9)]
    lines = [str(x) for x in rng.permutation(lines + fill)] if fill else lines
    glue = "\n" if rng.random() < 0.3 else " "
    text = glue.join(lines)
    turns = []
    for i in rng.permutation(keys)[: int(rng.integers(2, 6))]:
        key, value = asked[i], values[i]
        ask = rng.choice(
            [
                f"What is the note for {key}?",
                f"What is noted for {key}?",
                f"Which note belongs to {key}?",
                f"Tell me the note for {key}.",
                f"What does the note say about {key}?",
            ]
        )
        turns.append((f"{text}\n{ask}" if not turns else ask, f"The note for {key} {value}."))
    parts, copies = conversation(turns), []
    for number, (_, answer) in enumerate(turns):
        note = "Note: " + answer.removeprefix("The note for ")
        name, said = note.removesuffix(".").split(" ")[1:]
        there = parts[1][0].index(note) + len(f"Note: {name} ")
        copies.append((2 + 3 * number, len(f"The note for {name} "), 1, there, len(said)))
    pairs_here = [f"needle {k} {v}" for k, v in zip(asked, values, strict=True) if k != key]
    return Sample(
        "needle",
        "needle",
        [*pairs_here, f"needle {key} {value}"],
        parts,
        copies=copies,
        check={"value": value, "key": str(key), "keys": keys},
    )
