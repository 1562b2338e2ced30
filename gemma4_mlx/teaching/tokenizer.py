"""The teaching model's tokenizer: a byte-fallback BPE of 2,048 entries, ids like the real one's.

| ids       | entries                                                                |
|-----------|------------------------------------------------------------------------|
| 0 - 106   | the special tokens of Gemma 4 at their real ids; the rest `<unusedN>`  |
| 107       | newline                                                                |
| 108 - 114 | media tokens (in the real tokenizer they sit at 255999 to 258884)      |
| 115 - 370 | the bytes `<0x00>` to `<0xFF>`: any text can be spelled                |
| 371 -     | characters and learned pieces                                          |

As in the real one a space is written ▁, no space is put in front, and digits stand alone
(each in two forms, with and without a space before it).
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

VOCAB_SIZE = 2048
SPECIAL = {
    0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 4: "<mask>",
    46: "<|tool>", 47: "<tool|>", 48: "<|tool_call>", 49: "<tool_call|>",
    50: "<|tool_response>", 51: "<tool_response|>", 52: '<|"|>', 98: "<|think|>",
    100: "<|channel>", 101: "<channel|>", 105: "<|turn>", 106: "<turn|>",
    108: "<|image>", 109: "<|audio>", 110: "<|image|>", 111: "<|audio|>",
    112: "<image|>", 113: "<audio|>", 114: "<|video|>",
}  # fmt: skip
NEWLINE = 107
FIRST_BYTE = 115
FIRST_PIECE = FIRST_BYTE + 256
MEDIA = {
    "boi_token_id": 108, "boa_token_id": 109, "image_token_id": 110, "audio_token_id": 111,
    "eoi_token_id": 112, "eoa_token_id": 113, "video_token_id": 114,
}  # fmt: skip


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Cut before every ▁, and around every newline, digit and punctuation mark."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Split(Regex(r"▁?[0-9]"), "isolated"),
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[\p{P}&&[^▁_']]"), "isolated"),
        ]
    )


def _learn(corpus: Iterable[str], size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Learn `size` characters and pieces from the corpus: (pieces in order, merges)."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = _pre_tokenizer()
    trainer = BpeTrainer(vocab_size=size + 1, special_tokens=["\n"], show_progress=False)
    marker = re.compile("|".join(re.escape(text) for text in SPECIAL.values()))
    tokenizer.train_from_iterator((marker.sub("\n", text) for text in corpus), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    return [p for p in pieces if p != "\n"][:size], [tuple(m) for m in model["merges"]]


def _assemble(pieces: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    """The tokenizer of these pieces, in the order of their ids from FIRST_PIECE on.

    `ignore_merges`: a word that is a piece is taken whole, even where the steps that would merge
    its letters are not pieces themselves.
    """
    vocab = {f"<unused{i}>": i for i in range(NEWLINE) if i not in SPECIAL}
    vocab |= {text: i for i, text in SPECIAL.items()}
    vocab["\n"] = NEWLINE
    vocab |= {f"<0x{b:02X}>": FIRST_BYTE + b for b in range(256)}
    vocab |= {piece: FIRST_PIECE + i for i, piece in enumerate(pieces)}
    for i in range(len(vocab), VOCAB_SIZE):
        vocab[f"<unused{i}>"] = i
    known = set(pieces)
    merges = [(a, b) for a, b in merges if a in known and b in known and a + b in known]
    model = BPE(
        vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True, ignore_merges=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([SPECIAL[i] for i in sorted(SPECIAL)])
    return tokenizer


def with_whole_words(pieces, merges, corpus: Iterable[str], words: Iterable[str]) -> list[str]:
    """Put `words` in the place of the pieces that the corpus uses least.

    A noun stands behind a space in a question and behind a quote in a call; both forms must be
    one token, or copying a word means spelling it.
    """
    new = [word for word in dict.fromkeys(words) if word not in set(pieces)]
    counts = dict.fromkeys(pieces, 0)
    for encoding in _assemble([*pieces, *new], merges).encode_batch(list(corpus)):
        for token in encoding.tokens:
            if token in counts:
                counts[token] += 1
    spare = sorted((p for p in pieces if len(p) > 1), key=lambda p: (counts[p], -len(p), p))
    swap = dict(zip(spare[: len(new)], new, strict=True))
    return [swap.get(piece, piece) for piece in pieces]


def build(corpus: Iterable[str], words: Iterable[str] = ()) -> Tokenizer:
    """Build the tokenizer from texts that show what the model will read and write.

    `words` become whole tokens both with and without a space before them.
    """
    corpus = list(corpus)
    pieces, merges = _learn(corpus, VOCAB_SIZE - FIRST_PIECE)
    both = [form for word in words for form in (word, "▁" + word)]
    tokenizer = _assemble(with_whole_words(pieces, merges, corpus, both), merges)
    vocab = tokenizer.get_vocab()
    assert sorted(vocab.values()) == list(range(VOCAB_SIZE)), "the ids must be dense"
    return tokenizer


def hub_config() -> dict:
    """`tokenizer_config.json`: the names transformers' processor and ours look for."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
        "mask_token": "<mask>", "padding_side": "left", "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
        "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
        "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
        "sot_token": "<|turn>", "eot_token": "<turn|>", "think_token": "<|think|>",
        "soc_token": "<|channel>", "eoc_token": "<channel|>", "escape_token": '<|"|>',
        "std_token": "<|tool>", "etd_token": "<tool|>", "stc_token": "<|tool_call>",
        "etc_token": "<tool_call|>", "str_token": "<|tool_response>",
        "etr_token": "<tool_response|>",
        "extra_special_tokens": {
            "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
            "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
        },
        "model_specific_special_tokens": {
            "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
            "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
        },
    }  # fmt: skip


def load(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
