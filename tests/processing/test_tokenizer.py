"""The tokenizer: no text becomes a control token, no character is cut, any text comes back."""

import json
import random
import shutil
from pathlib import Path

import pytest
import udhr
from sentences import SENTENCES

from gemma4_mlx.errors import ChatError, CheckpointError
from gemma4_mlx.processing.characters import characters, incomplete_suffix, open_suffix
from gemma4_mlx.processing.tokenizer import CONTROL_TOKENS, Tokenizer

CHECKPOINT = Path(__file__).parents[2] / "gemma4_mlx" / "teaching" / "checkpoint"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_folder(CHECKPOINT)


def test_knows_every_control_token(tokenizer):
    assert set(tokenizer.special_ids) == set(CONTROL_TOKENS)
    assert tokenizer.id("<|turn>") == 105
    assert tokenizer.id("<turn|>") == 106
    assert tokenizer.eos_token_ids == (1, 106, 50)
    assert tokenizer.bos_token_id == 2
    with pytest.raises(KeyError):
        tokenizer.id("no such entry")


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_plain_text_never_becomes_a_control_token(tokenizer, token):
    controls = set(tokenizer.special_ids.values())
    for text in (token, token * 3, f"a{token}b", f"<{token}>", f" {token}\n", token[:-1] + token):
        ids = tokenizer.encode(text)
        assert controls.isdisjoint(ids)
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode(token, allow_special=True) == [tokenizer.special_ids[token]]
    mixed = tokenizer.encode(f"a{token}b", allow_special=True)
    assert mixed.count(tokenizer.special_ids[token]) == 1


@pytest.mark.parametrize("script", SENTENCES)
def test_every_script_comes_back(tokenizer, script):
    text = SENTENCES[script]
    ids = tokenizer.encode(text)
    # A literal ▁ is the vocabulary's spelling of a space: the one character that is not kept.
    expected = text.replace("▁", " ")
    assert tokenizer.decode(ids) == expected
    stream = tokenizer.detokenizer()
    pieces = [stream.add(i) for i in ids]
    pieces.append(stream.finish())
    assert "".join(pieces) == expected
    assert not any("\ufffd" in p for p in pieces)
    for piece in pieces[:-1]:
        assert incomplete_suffix(piece) == 0


def test_streaming_agrees_with_decoding_on_noise(tokenizer):
    rng = random.Random(0)
    first, last = tokenizer.id("<0x00>"), tokenizer.id("<0xFF>")
    for _ in range(500):
        ids = [
            rng.choice([rng.randint(first, last), rng.randrange(tokenizer.vocab_size)])
            for _ in range(rng.randrange(12))
        ]
        stream = tokenizer.detokenizer()
        text = "".join([stream.add(i) for i in ids]) + stream.finish()
        assert text == tokenizer.decode(ids)


def test_token_text_shows_parts_of_characters(tokenizer):
    assert tokenizer.token_text(tokenizer.id("<0xE0>")) == "<0xE0>"
    assert tokenizer.token_text(tokenizer.id("<|turn>")) == "<|turn>"
    assert tokenizer.token_text(tokenizer.id("<0x41>")) == "A"
    assert tokenizer.token_text(10**9) == ""
    assert tokenizer.token_text(-1) == ""


def test_special_tokens_can_be_left_out(tokenizer):
    ids = tokenizer.encode("<|turn>user\nHi<turn|>", allow_special=True)
    assert tokenizer.decode(ids) == "<|turn>user\nHi<turn|>"
    assert tokenizer.decode(ids, skip_special=True) == "user\nHi"
    stream = tokenizer.detokenizer(skip_special=True)
    assert "".join(map(stream.add, ids)) + stream.finish() == "user\nHi"


def test_unmarked_control_tokens_are_still_control_tokens(tmp_path):
    data = json.loads((CHECKPOINT / "tokenizer.json").read_text("utf-8"))
    data["added_tokens"] = [a for a in data["added_tokens"] if a["content"] != "<|video|>"]
    for token in data["added_tokens"]:
        if token["content"] == "<turn|>":
            token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    tokenizer = Tokenizer.from_folder(tmp_path)
    for token in ("<|video|>", "<turn|>"):
        assert token in tokenizer.special_ids
        assert tokenizer.special_ids[token] not in tokenizer.encode(f"a {token} b")
    assert tokenizer.eos_token_ids == (tokenizer.id("<eos>"),)


def test_a_vocabulary_that_merges_into_a_control_token(tmp_path):
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import BPE

    vocab = {c: i for i, c in enumerate("<bos>")} | {"<b": 5, "<bo": 6, "<bos": 7, "<bos>": 8}
    merges = [("<", "b"), ("<b", "o"), ("<bo", "s"), ("<bos", ">")]
    tokenizer = Tokenizer(Backend(BPE(vocab, merges)))
    ids = tokenizer.encode("<bos><bos>")
    assert tokenizer.special_ids == {"<bos>": 8}
    assert 8 not in ids
    assert tokenizer.decode(ids) == "<bos><bos>"


def test_byte_level_vocabularies_work():
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, pre_tokenizers
    from tokenizers.models import BPE

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer(backend)
    text = "héllo नमस्ते 🎉"
    ids = tokenizer.encode(text)
    stream = tokenizer.detokenizer()
    assert tokenizer.decode(ids) == text
    assert "".join(map(stream.add, ids)) + stream.finish() == text


def test_bad_input(tmp_path, tokenizer):
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a readable tokenizer"):
        Tokenizer.from_folder(tmp_path)
    shutil.copy(CHECKPOINT / "tokenizer.json", tmp_path)
    (tmp_path / "generation_config.json").write_text("[")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        Tokenizer.from_folder(tmp_path)
    for eos in ("1.5", '"<eos>"', "[1, null]"):
        (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": {eos}}}')
        with pytest.raises(CheckpointError, match="eos_token_id is"):
            Tokenizer.from_folder(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja cannot be read"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(ChatError, match="surrogate"):
        tokenizer.encode("a\ud800b")
    with pytest.raises(ChatError, match="a int was given"):
        tokenizer.encode(5)


def test_characters_are_what_a_reader_sees():
    assert characters("e\u0301a") == ["e\u0301", "a"]
    assert characters("👩‍👩‍👧‍👦👍🏽🇫🇷🇯🇵") == ["👩‍👩‍👧‍👦", "👍🏽", "🇫🇷", "🇯🇵"]
    assert characters("क्षत्रिय") == ["क्ष", "त्रि", "य"]
    assert characters("1️⃣2") == ["1️⃣", "2"]
    assert characters("\r\na") == ["\r\n", "a"]
    assert characters("") == []
    for text in SENTENCES.values():
        assert "".join(characters(text)) == text
    assert open_suffix("abc.") == 0
    assert open_suffix("abc ") == 0
    assert open_suffix("ab") == 1
    assert open_suffix("xกำ") >= 1


def test_the_declaration_of_human_rights_comes_back(tokenizer):
    """Article 1 in every language of the npm package `udhr`."""
    articles = udhr.articles()
    assert len(articles) >= 100
    for language, (_, text) in articles.items():
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text, language
        stream = tokenizer.detokenizer()
        pieces = [stream.add(i) for i in ids]
        assert "".join(pieces) + stream.finish() == text, language
        assert not any("\ufffd" in p for p in pieces), language


@pytest.mark.parametrize(
    "pattern, simple",
    [
        (r"(a+)+$", False),
        (r"((a|b)*c*)*d", False),
        (r"(?:x{1,}y?){2,}", False),
        ("a*" * 50, False),
        ("a" * 2000, False),
        (r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+(?!\S)", True),
        (r"'(?i:[sdmt]|ll|ve|re)| ?\p{L}+", True),
        (r"\(a+\)+", True),  # the brackets are letters
        (r"[(a+)]+", True),
        (".", True),
    ],
)  # fmt: skip
def test_regular_expressions_that_could_run_without_end(tmp_path, pattern, simple):
    from tokenizers import Regex, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    backend = Backend(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.save(str(tmp_path / "tokenizer.json"))
    if simple:
        assert Tokenizer.from_folder(tmp_path).encode("a")
        return
    with pytest.raises(CheckpointError, match="could run without end"):
        Tokenizer.from_folder(tmp_path)


def test_a_tokenizer_that_gives_up_says_so():
    from tokenizers import Regex, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    backend = Backend(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    with pytest.raises(ChatError, match="gives up on the text"):
        Tokenizer(backend).encode("a" * 30 + "b")
