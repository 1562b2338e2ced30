"""Text to token ids and back.

:class:`Tokenizer` wraps the `tokenizers` library (one ``tokenizer.json``) and adds the two
guarantees a chat needs:

* plain text never becomes a control token. ``encode("<turn|>")`` gives the ids that *spell* those
  seven characters; the id that ends a turn comes only from ``allow_special=True`` or from the chat
  template (see ``template.py``);
* streaming never shows half a character. A token of the byte-fallback vocabulary may be a third
  of a Thai letter or a quarter of an emoji: :class:`Detokenizer` holds bytes back until they are
  whole.

Gemma's vocabulary is a SentencePiece-like BPE: a space is written ``▁``, no space is put in front
of a text, and what is not in the vocabulary is spelled in bytes ``<0x00>`` to ``<0xFF>``.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import ChatError, CheckpointError
from .characters import incomplete_suffix

# Control tokens of the Gemma 4 family. Early uploads of its tokenizer leave some of them out of
# the special ones (transformers adds `<|video|>` by hand in processing_gemma4.py); they are
# control tokens all the same.
CONTROL_TOKENS = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>",
    "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>",
    '<|"|>', "<|think|>", "<|channel>", "<channel|>", "<|turn>", "<turn|>",
    "<|image>", "<image|>", "<|audio>", "<audio|>", "<|image|>", "<|audio|>", "<|video|>",
)  # fmt: skip

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


#: A repeat, and a group with a repeat in it that is itself repeated: (a+)+ takes exponential time.
_REPEAT = r"(?:[*+]|\{\d*,\d*\})"
_NESTED = re.compile(rf"\([^()]*{_REPEAT}[^()]*\){_REPEAT}")
_SIMPLE_GROUP = re.compile(r"\([^()]*\)")
#: Bytes of a tokenizer.json that is searched for patterns (Gemma's is 33 MB), length of a pattern
#: and repeats in it.
_LARGEST_FILE, _LONGEST_PATTERN, _MOST_REPEATS = 2**28, 1000, 40


def _check_patterns(file: Path) -> None:
    """Raise CheckpointError for regular expressions that could take time without end.

    Gemma's own tokenizers have next to none; those of byte-level vocabularies are simple.
    """
    if (size := file.stat().st_size) > _LARGEST_FILE:
        raise CheckpointError(f"{file} has {size:,} bytes, more than {_LARGEST_FILE:,}")
    if b'"Regex"' not in (raw := file.read_bytes()):
        return
    for text in re.findall(rb'"Regex"\s*:\s*("(?:[^"\\]|\\.)*")', raw):
        try:
            pattern = json.loads(text)
        except ValueError:
            continue  # the file is no valid JSON: its reader raises
        repeats = len(re.findall(_REPEAT, pattern))
        if len(pattern) > _LONGEST_PATTERN or repeats > _MOST_REPEATS or _is_nested(pattern):
            raise CheckpointError(
                f"{file}: the regular expression {pattern[:60]!r} could run without end"
            )


def _is_nested(pattern: str) -> bool:
    """Whether a repeat stands inside a repeated group."""
    pattern = re.sub(r"\\.|\[(?:[^\]\\]|\\.)*\]", "x", pattern)  # escapes and classes
    while True:
        if _NESTED.search(pattern):
            return True
        # Replace the innermost groups by a letter, with a repeat behind it if they hold one: so the
        # group around them holds it as well.
        inner = _SIMPLE_GROUP.sub(
            lambda match: "x+" if re.search(_REPEAT, match.group()) else "x", pattern
        )
        if inner == pattern:
            return False
        pattern = inner


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-ins for bytes of a byte-level BPE (GPT-2's table), character -> byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    table = {chr(b): b for b in printable}
    table.update({chr(256 + i): b for i, b in enumerate(others)})
    return table


class Tokenizer:
    """A checkpoint's tokenizer.

    Attributes:
        special_ids: control token -> id, e.g. ``{"<|turn>": 105, ...}``.
        eos_token_ids: ids that end a generation, from the checkpoint's configuration.
        eos_token_id, bos_token_id, pad_token_id: as in the checkpoint, or None.
    """

    def __init__(self, backend, *, eos_token_ids: Sequence[int] = (), chat_template=None):
        """Wrap a ``tokenizers.Tokenizer``; most callers want :meth:`from_folder`."""
        from tokenizers import AddedToken

        added = backend.get_added_tokens_decoder()
        marked = {token.content: id for id, token in added.items() if token.special}
        missing = {t: backend.token_to_id(t) for t in CONTROL_TOKENS if t not in marked}
        missing = {t: id for t, id in missing.items() if id is not None}
        if missing:
            backend.add_special_tokens(
                [AddedToken(t, special=True, normalized=False) for t in missing]
            )
        # Special tokens in a text are then encoded as the characters they are written with.
        backend.encode_special_tokens = True
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        controls = marked | missing
        self.special_ids: dict[str, int] = {
            t: controls[t] for t in sorted(controls, key=controls.get)
        }
        self._special_set = frozenset(self.special_ids.values())
        by_length = sorted(self.special_ids, key=len, reverse=True)
        self._special_pattern = re.compile(
            "|".join(re.escape(t) for t in by_length) if by_length else r"(?!)"
        )
        self._byte_level = '"ByteLevel"' in _decoder_json(backend)
        self._byte_alphabet = _byte_alphabet() if self._byte_level else {}
        self._bytes_of: dict[int, bytes] = {}
        self.bos_token_id = self.special_ids.get("<bos>")
        self.pad_token_id = self.special_ids.get("<pad>")
        self.eos_token_id = self.special_ids.get("<eos>")
        default_eos = () if self.eos_token_id is None else (self.eos_token_id,)
        self.eos_token_ids = tuple(eos_token_ids) or default_eos
        self.chat_template: str | None = chat_template

    @classmethod
    def from_folder(cls, path: str | Path) -> "Tokenizer":
        """Read ``tokenizer.json`` and, where present, the stop tokens and the chat template.

        The stop tokens are those of ``generation_config.json``, else of ``config.json``.

        Raises:
            CheckpointError: no ``tokenizer.json`` there, one of the files cannot be read, or a
                regular expression in it that could run without end.
        """
        from tokenizers import Tokenizer as Backend

        folder = Path(path)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(
                f"{folder} has no tokenizer.json: download the complete repository "
                "(it is one of its files)."
            )
        _check_patterns(file)
        try:
            backend = Backend.from_file(str(file))
        except Exception as error:
            raise CheckpointError(f"{file} is not a readable tokenizer: {error}") from error
        eos: list[int] = []
        for name in ("generation_config.json", "config.json"):
            stored = _read_json(folder / name).get("eos_token_id")
            if stored is not None:
                eos = stored if isinstance(stored, list) else [stored]
                if not all(isinstance(id, int) for id in eos):
                    raise CheckpointError(
                        f"{folder / name}: eos_token_id is {stored!r}, no token id or list of ids"
                    )
                break
        template = folder / "chat_template.jinja"
        try:
            text = template.read_text("utf-8") if template.is_file() else None
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{template} cannot be read: {error}") from None
        if text is None:
            stored = _read_json(folder / "tokenizer_config.json").get("chat_template")
            text = stored if isinstance(stored, str) else None
        return cls(backend, eos_token_ids=eos, chat_template=text)

    # Text -> ids

    def encode(
        self, text: str, allow_special: bool = False, *, add_special_tokens: bool = False
    ) -> list[int]:
        """Token ids of a text.

        Args:
            text: any Unicode text.
            allow_special: read control tokens written in the text (``"<|turn>user"``) as such.
                Only for text the program itself wrote, never for a user's or a tool's.
            add_special_tokens: put ``<bos>`` in front (the name other libraries use).

        Raises:
            ChatError: the text is no string, or holds half of a surrogate pair.
        """
        if not isinstance(text, str):
            raise ChatError(f"a text is encoded; a {type(text).__name__} was given")
        ids = [self.bos_token_id] if add_special_tokens and self.bos_token_id is not None else []
        if not allow_special:
            return ids + self._encode_plain(text)
        start = 0
        for match in self._special_pattern.finditer(text):
            ids += self._encode_plain(text[start : match.start()])
            ids.append(self.special_ids[match.group()])
            start = match.end()
        return ids + self._encode_plain(text[start:])

    def _encode_plain(self, text: str) -> list[int]:
        if not text:
            return []
        try:
            ids = self._backend.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise ChatError(
                "the text cannot be encoded as UTF-8 (it contains half of a surrogate pair, "
                f"as broken JSON escapes do): {error}"
            ) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # Rust's, which is no Exception
                raise
            raise ChatError(
                f"this checkpoint's tokenizer gives up on the text: {str(error)[:200]}"
            ) from None
        if self._special_set.isdisjoint(ids):
            return ids
        # A vocabulary whose merges build a control token out of characters: spell it out.
        match = self._special_pattern.search(text)
        if match is None or len(text) == 1:
            return [i for i in ids if i not in self._special_set]
        cut = match.start() + 1
        return self._encode_plain(text[:cut]) + self._encode_plain(text[cut:])

    # Ids -> text

    def decode(
        self, ids: Iterable[int], skip_special: bool = False, *, skip_special_tokens: bool = False
    ) -> str:
        """The text of some ids. Bytes that form no character become ``\\ufffd``."""
        skip = skip_special or skip_special_tokens
        kept = (int(i) for i in ids)
        return b"".join(
            self.token_bytes(i) for i in kept if not (skip and i in self._special_set)
        ).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """The UTF-8 bytes one token stands for; empty for an id outside the vocabulary."""
        known = self._bytes_of.get(id)
        if known is None:
            known = self._bytes_of[id] = self._token_bytes(id)
        return known

    def _token_bytes(self, id: int) -> bytes:
        piece = self._backend.id_to_token(id) if id >= 0 else None
        if piece is None:
            return b""
        if id in self._special_set:
            return piece.encode("utf-8")
        if self._byte_level:
            return bytes(self._byte_alphabet.get(c, 0x3F) for c in piece)
        byte = _BYTE_PIECE.fullmatch(piece)
        if byte:
            return bytes([int(byte.group(1), 16)])
        return piece.replace("▁", " ").encode("utf-8")

    def token_text(self, id: int) -> str:
        """How to show one token on its own: its text, or ``<0xE0>`` for part of a character."""
        try:
            return self.token_bytes(id).decode("utf-8")
        except UnicodeDecodeError:
            return "".join(f"<0x{b:02X}>" for b in self.token_bytes(id))

    def detokenizer(self, *, skip_special: bool = False) -> "Detokenizer":
        """A new streaming decoder; see :class:`Detokenizer`."""
        return Detokenizer(self, skip_special=skip_special)

    # The vocabulary

    def id(self, name: str) -> int:
        """The id of one vocabulary entry, e.g. ``id("<|turn>") == 105``.

        Raises:
            KeyError: the entry does not exist.
        """
        found = self._backend.token_to_id(name)
        if found is None:
            raise KeyError(name)
        return found

    def is_special(self, id: int) -> bool:
        """True for a control token."""
        return id in self._special_set

    @property
    def vocab_size(self) -> int:
        """Number of entries, added tokens included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def __len__(self) -> int:
        return self.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """Every entry -> id."""
        return self._backend.get_vocab(with_added_tokens=True)

    def convert_ids_to_tokens(self, ids):
        """The vocabulary's spelling of an id or of several (▁ for a space)."""
        if isinstance(ids, int):
            return self._backend.id_to_token(ids)
        return [self._backend.id_to_token(int(i)) for i in ids]

    def convert_tokens_to_ids(self, tokens):
        """The id of a vocabulary entry, or of several; None for what does not exist."""
        if isinstance(tokens, str):
            return self._backend.token_to_id(tokens)
        return [self._backend.token_to_id(t) for t in tokens]

    @property
    def bos_token(self) -> str | None:
        """``"<bos>"`` where the vocabulary has it."""
        return None if self.bos_token_id is None else "<bos>"

    @property
    def backend(self):
        """The ``tokenizers.Tokenizer`` inside (llguidance reads the vocabulary from it)."""
        return self._backend

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size} entries, {len(self.special_ids)} control tokens)"


class Detokenizer:
    """Turns a stream of ids into text, never showing half a character.

    Held back until more arrives: bytes that are not yet a whole UTF-8 character, and characters
    that announce a following one (a zero-width joiner inside an emoji family, the virama that
    joins two Indic consonants, the first half of a flag). Everything else appears at once, so that
    a token's text stays with its token. The pieces joined equal ``decode`` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = False):
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._bytes = b""  # an unfinished UTF-8 sequence, at most 3 bytes
        self._held = ""  # characters that announce a following one

    def add(self, id: int) -> str:
        """The text that token `id` completes, perhaps empty."""
        if self._skip_special and self._tokenizer.is_special(id):
            return ""
        data = self._bytes + self._tokenizer.token_bytes(id)
        cut = _whole_characters(data)
        self._bytes = data[cut:]
        text = self._held + data[:cut].decode("utf-8", errors="replace")
        held = incomplete_suffix(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """What is still held back; unfinished bytes become ``\\ufffd``."""
        text = self._held + self._bytes.decode("utf-8", errors="replace")
        self._bytes, self._held = b"", ""
        return text


def _whole_characters(data: bytes) -> int:
    """How many leading bytes of `data` can be decoded without waiting for more."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            return len(data)
        if byte >= 0xC0:  # the lead byte of the last character
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            lead_ok = 0xC2 <= byte <= 0xF4
            if not lead_ok or size <= back or not _may_continue(data[len(data) - back :]):
                return len(data)
            return len(data) - back
    return len(data)


def _may_continue(data: bytes) -> bool:
    """False when the bytes after a lead byte already rule out any valid character."""
    if len(data) < 2:
        return True
    first = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}
    low, high = first.get(data[0], (0x80, 0xBF))
    return low <= data[1] <= high


def _decoder_json(backend) -> str:
    decoder = backend.decoder
    if decoder is None:
        return ""
    state = decoder.__getstate__()
    return state.decode("utf-8") if isinstance(state, bytes) else str(state)


def _read_json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    return value if isinstance(value, dict) else {}
