"""llama.cpp's files: the same model as their decoded weights in safetensors."""

import json
import logging
import sys

import mlx.core as mx
import numpy as np
import pytest
import tiny
from mlx.utils import tree_flatten
from without_mlx import run

import gemma4_mlx as g4
from gemma4_mlx.checkpoints.foreign.gguf_header import TYPES
from gemma4_mlx.checkpoints.plan import read_plan
from gemma4_mlx.errors import CheckpointError, ConfigError

gguf = pytest.importorskip("gguf")
gguf_files = pytest.importorskip("gguf_files")

#: Rows that K-quants divide, whose blocks are 256 long.
WIDE = tiny.TEXT_CONFIG | {
    "hidden_size": 256,
    "intermediate_size": 256,
    "moe_intermediate_size": 256,
    "num_attention_heads": 4,
    "head_dim": 64,
    "num_experts": 4,
    "num_hidden_layers": 3,
    "layer_types": [tiny.SLIDING, tiny.FULL, tiny.FULL],
    "num_kv_shared_layers": 1,
}
DENSE = WIDE | {
    "enable_moe_block": False,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
}
KEPT = {"Q4_0": 4, "Q4_1": 4, "Q5_0": 5, "Q5_1": 5, "Q8_0": 8, "Q4_K": 4, "Q5_K": 5}


@pytest.fixture(scope="module")
def weights():
    return gguf_files.text_weights(WIDE)


def in_blocks(kind):
    """Matrices in blocks of a type where they fit, all else in float32, as llama.cpp does."""
    block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]

    def kind_of(name, shape):
        matrix = len(shape) > 1 and "router" not in name
        return kind if matrix and shape[-1] % block == 0 else "F32"

    return kind_of


def save(folder, config, exact):
    return tiny.save(folder, config, {n: mx.array(v) for n, v in exact.items()})


def assert_close(got, expected, tolerance=2e-5):
    assert np.abs(got - expected).max() < tolerance * np.abs(expected).max()


def outputs(folder, **options):
    return np.array(tiny.logits(g4.load(folder, **options)))


@pytest.mark.parametrize("kind", [*KEPT, "F32", "F16", "BF16", "Q6_K", "Q3_K", "IQ4_XS"])
def test_types(kind, weights, tmp_path):
    file = tmp_path / "model.gguf"
    exact = gguf_files.write(file, WIDE, weights, in_blocks(kind))
    model, same = g4.load(file), g4.load(save(tmp_path / "exact", WIDE, exact))
    assert model.config.text == same.config.text
    up = model.layers[0].mlp.up_proj
    experts = model.layers[1].experts.switch_glu
    for module in (up, experts.gate_proj, experts.down_proj):
        assert module.get("bits", getattr(module, "bits", None)) == KEPT.get(kind)
    if kind in KEPT:
        assert up.group_size == 32
        decoded = mx.dequantize(up.weight, up.scales, up.biases, group_size=32, bits=up.bits)
        wanted = same.layers[0].mlp.up_proj.weight
        assert mx.allclose(decoded, wanted, rtol=1e-6, atol=1e-7).item()
    else:
        mine = dict(tree_flatten(model.parameters()))
        for name, value in tree_flatten(same.parameters()):
            assert mx.array_equal(mine[name], value).item(), name
    assert_close(np.array(tiny.logits(model)), np.array(tiny.logits(same)))


def test_dense_model_with_a_head_of_its_own(tmp_path):
    """No experts, no per-layer embeddings, no shared keys; ``output.weight`` beside the table."""
    config = DENSE | {"tie_word_embeddings": False}
    weights = gguf_files.text_weights(DENSE)
    weights["lm_head.weight"] = np.roll(weights["model.embed_tokens.weight"], 3, axis=0)
    exact = gguf_files.write(tmp_path / "m.gguf", config, weights, in_blocks("Q8_0"))
    model = g4.load(tmp_path / "m.gguf")
    assert model.language_model.lm_head.bits == 8
    assert_close(np.array(tiny.logits(model)), outputs(save(tmp_path / "same", config, exact)))


def test_blocks_of_rows_change_nothing(weights, tmp_path, monkeypatch):
    for kind in ("Q5_K", "Q6_K"):
        gguf_files.write(tmp_path / "m.gguf", WIDE, weights, in_blocks(kind))
        whole = dict(tree_flatten(g4.load(tmp_path / "m.gguf").parameters()))
        monkeypatch.setattr("gemma4_mlx.checkpoints.read.BLOCK_BYTES", 5 * 256 * 4)
        for name, value in tree_flatten(g4.load(tmp_path / "m.gguf").parameters()):
            assert mx.array_equal(value, whole[name]).item(), (kind, name)
        monkeypatch.undo()


def test_experts_apart(weights, tmp_path):
    """Gate and up projection of the experts as two tensors, as earlier converters wrote them."""
    apart = {}
    for name, value in weights.items():
        if name.endswith("gate_up_proj"):
            for part, half in zip(("gate", "up"), np.split(value, 2, axis=1)):
                apart[name.replace("gate_up", part)] = half
        else:
            apart[name] = value
    for part in ("gate", "up"):
        gguf_files.NAMES[f"experts.{part}_proj"] = f"ffn_{part}_exps.weight"
    gguf_files.write(tmp_path / "a.gguf", WIDE, apart, in_blocks("Q4_0"))
    gguf_files.write(tmp_path / "b.gguf", WIDE, weights, in_blocks("Q4_0"))
    np.testing.assert_array_equal(outputs(tmp_path / "a.gguf"), outputs(tmp_path / "b.gguf"))


class TestPackedAgain:
    def test_what_was_decoded_and_no_more(self, weights, tmp_path, caplog):
        """A mixture as in Q4_K_M: bits= applies to what MLX has no packing for."""

        def kind_of(name, shape):
            own = "Q6_K" if "down_proj" in name or "embed_tokens.weight" in name else "Q4_K"
            return in_blocks(own)(name, shape)

        file = tmp_path / "m.gguf"
        exact = gguf_files.write(file, WIDE, weights, kind_of)
        with caplog.at_level(logging.WARNING):
            model = g4.load(file, bits=6)
        assert "in Q6_K have no packing" in caplog.text
        assert "stored as Q6_K were quantized once more: they moved by" in caplog.text
        mlp = model.layers[0].mlp
        assert (mlp.up_proj.bits, mlp.up_proj.group_size) == (4, 32)
        assert (mlp.down_proj.bits, mlp.down_proj.group_size) == (6, 64)
        said = float(caplog.text.split("they moved by ")[1].split(" %")[0]) / 100
        moved = total = 0.0
        for module, name in (
            (mlp.down_proj, "model.layers.0.mlp.down_proj.weight"),
            (model.language_model.model.embed_tokens, "model.embed_tokens.weight"),
        ):
            parts = (module.weight, module.scales, module.biases)
            value = np.array(mx.dequantize(*parts, group_size=64, bits=6))
            moved += ((value - exact[name]) ** 2).sum()
            total += (exact[name] ** 2).sum()
        assert said == pytest.approx((moved / total) ** 0.5, rel=0.2)

    def test_nothing_to_pack(self, weights, tmp_path):
        gguf_files.write(tmp_path / "m.gguf", WIDE, weights, in_blocks("Q4_0"))
        with pytest.raises(CheckpointError, match="quantized already"):
            g4.load(tmp_path / "m.gguf", bits=8)

    def test_sixteen_bits(self, weights, tmp_path):
        gguf_files.write(tmp_path / "m.gguf", WIDE, weights, in_blocks("BF16"))
        packed = g4.load(tmp_path / "m.gguf", bits=4).layers[0].mlp.up_proj
        value = mx.array(weights["model.layers.0.mlp.up_proj.weight"]).astype(mx.bfloat16)
        assert mx.array_equal(packed.weight, mx.quantize(value, bits=4)[0]).item()


@pytest.fixture(scope="module")
def backend():
    """A small tokenizer built as Gemma's is: spaces become ``▁``, words end in theirs, bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.trainers import BpeTrainer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|channel>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    known = [*special, "<table>", *(f"<0x{i:02X}>" for i in range(256))]
    text = ["the quick brown fox jumps over the lazy dog\n\n", "a b c 1 2 3. the the quick!"] * 4
    tokenizer.train_from_iterator(text, BpeTrainer(vocab_size=320, special_tokens=known))
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = []
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken("<table>", normalized=False)])
    return tokenizer


def stored(backend):
    """What llama.cpp's converter writes of a tokenizer."""
    model = json.loads(backend.to_str())["model"]
    tokens = [backend.id_to_token(i) for i in range(backend.get_vocab_size())]
    added = backend.get_added_tokens_decoder()
    types = []
    for i, token in enumerate(tokens):
        kind = 6 if token.startswith("<0x") else 1
        if i in added:
            visible = token == "<|channel>"
            kind = 4 if visible or not added[i].special else 3
        types.append(kind)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return tokens, types, merges, "{{ messages[0].content }}"


class TestTokenizer:
    @pytest.fixture(scope="class")
    def model(self, backend, tmp_path_factory):
        weights = gguf_files.text_weights(DENSE)
        file = tmp_path_factory.mktemp("gguf") / "m.gguf"
        gguf_files.write(file, DENSE, weights, in_blocks("F32"), stored(backend))
        return g4.load(file)

    @pytest.mark.parametrize(
        "text",
        [
            "the quick brown fox",
            "  two  spaces ",
            "über 東京 🙂\n\n\ttab",
            "<table>x",
            "<|turn>user",
            "",
        ],
    )
    def test_same_ids(self, text, model, backend):
        from gemma4_mlx.processing.tokenizer import Tokenizer

        same = Tokenizer(backend, eos_token_ids=[1, 5])
        for special in (False, True):
            ids = same.encode(text, allow_special=special)
            assert model.tokenizer.encode(text, allow_special=special) == ids
            assert model.tokenizer.decode(ids) == same.decode(ids)
        assert model.tokenizer.special_ids == same.special_ids

    def test_template_and_ends(self, model):
        assert model.chat_template == "{{ messages[0].content }}"
        assert model.tokenizer.eos_token_ids == (1, 5) == model.config.eos_token_ids
        assert model.tokenizer.bos_token_id == 2

    def test_a_chat(self, model):
        assert g4.Chat(model).send("the quick", max_tokens=3).tokens

    @pytest.mark.parametrize("what", ["twice", "types", "merge"])
    def test_broken(self, what, backend, tmp_path):
        tokens, types, merges, template = stored(backend)
        if what == "twice":
            tokens[7] = tokens[8]
        elif what == "types":
            types = types[:-1]
        else:
            merges = [*merges, "nosuchtoken other"]
        file = tmp_path / "m.gguf"
        weights = gguf_files.text_weights(DENSE)
        broken = (tokens, types, merges, template)
        gguf_files.write(file, DENSE, weights, in_blocks("F32"), broken)
        with pytest.raises(CheckpointError, match="token"):
            g4.load(file)


class TestFiles:
    @pytest.fixture(scope="class")
    def file(self, tmp_path_factory):
        file = tmp_path_factory.mktemp("gguf") / "model-Q4_0.gguf"
        gguf_files.write(file, WIDE, gguf_files.text_weights(WIDE), in_blocks("Q4_0"))
        return file

    def test_folder_of_one(self, file, tmp_path):
        (tmp_path / file.name).symlink_to(file)
        (tmp_path / "mmproj-F16.gguf").write_bytes(b"GGUF")
        assert g4.load(tmp_path).source == str(tmp_path)
        assert g4.load(tmp_path).fingerprint == g4.load(file).fingerprint
        (tmp_path / "model-Q8_0.gguf").write_bytes(b"GGUF")
        with pytest.raises(CheckpointError, match=r"2 GGUF files; name one: model-Q4_0\.gguf"):
            g4.load(tmp_path)

    def test_fits(self, file):
        assert g4.fit(str(file), context=512).fits

    def test_split(self, tmp_path):
        weights = gguf_files.text_weights(DENSE)
        whole = tmp_path / "whole.gguf"
        gguf_files.write(whole, DENSE, weights, in_blocks("Q8_0"))
        names = list(weights)
        first, second = (tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2))
        gguf_files.write(first, DENSE, {n: weights[n] for n in names[:9]}, in_blocks("Q8_0"))
        rest = {n: weights[n] for n in names[9:]}
        w = gguf.GGUFWriter(str(second), "gemma4")
        for name, value in rest.items():
            w.add_tensor(gguf_files.name_of(name), value.astype(np.float32))
        w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
        whole.unlink()
        model = g4.load(tmp_path)
        assert model.config.text.num_hidden_layers == 3
        second.unlink()
        with pytest.raises(CheckpointError, match=r"00002-of-00002\.gguf is missing"):
            g4.load(first)

    @pytest.mark.parametrize("keep", [0, 3, 20, 500, -1, -5000])
    def test_cut_short(self, keep, file, tmp_path):
        cut = tmp_path / "m.gguf"
        cut.write_bytes(file.read_bytes()[:keep])
        with pytest.raises((CheckpointError, ConfigError), match=r"m\.gguf"):
            g4.load(cut)

    def test_another_architecture(self, tmp_path):
        for kind in ("llama", "clip"):
            w = gguf.GGUFWriter(str(tmp_path / "m.gguf"), kind)
            w.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
            w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file()
            w.close()
            with pytest.raises(ConfigError, match=kind):
                g4.load(tmp_path / "m.gguf")

    def test_unknown_tensors_are_named(self, tmp_path):
        weights = gguf_files.text_weights(DENSE)

        def change(writer):
            writer.add_tensor("blk.0.attn_sinks.weight", np.zeros(4, np.float32))

        gguf_files.write(tmp_path / "m.gguf", DENSE, weights, in_blocks("F32"), change=change)
        with pytest.raises(CheckpointError, match=r"unexpected: blk\.0\.attn_sinks\.weight"):
            g4.load(tmp_path / "m.gguf")

    def test_a_setting_of_another_type(self, tmp_path):
        weights = gguf_files.text_weights(DENSE)

        def change(writer):
            writer.kv_data[0]["gemma4.attention.shared_kv_layers"].value = "two"
            writer.kv_data[0]["gemma4.attention.shared_kv_layers"].type = gguf.GGUFValueType.STRING

        gguf_files.write(tmp_path / "m.gguf", DENSE, weights, in_blocks("F32"), change=change)
        with pytest.raises(ConfigError, match=r"m\.gguf"):
            g4.load(tmp_path / "m.gguf")

    def test_without_the_package(self, file, weights, tmp_path, monkeypatch):
        """Only what is decoded needs it."""
        other = tmp_path / "m.gguf"
        gguf_files.write(other, WIDE, weights, in_blocks("Q6_K"))
        monkeypatch.setitem(sys.modules, "gguf", None)
        g4.load(file)
        with pytest.raises(CheckpointError, match=r"Q6_K.*gemma4-mlx\[gguf\]"):
            read_plan(other)

    def test_what_fits_is_planned_without_mlx(self, file):
        done = run("print(g4.fit(sys.argv[1], context=99, memory=16).weights)", file)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(g4.fit(file, context=99, memory=16).weights)

    def test_types_are_the_packages(self):
        for number, (name, block, size) in TYPES.items():
            kind = gguf.GGMLQuantizationType(number)
            assert (kind.name, *gguf.GGML_QUANT_SIZES[kind]) == (name, block, size)

    @pytest.mark.parametrize("seed", range(4))
    def test_changed_bytes(self, seed, file, tmp_path):
        """Counts, lengths and types of any value: read or refused, and soon."""
        rng, data = np.random.default_rng(seed), file.read_bytes()
        changed = tmp_path / "m.gguf"
        for _ in range(25):
            other = bytearray(data)
            for at in rng.integers(0, 9000, rng.integers(1, 4)):
                patch = [b"\xff" * 8, bytes(8), (1 << 40).to_bytes(8, "little"), rng.bytes(1)]
                patch = patch[rng.integers(4)]
                other[at : at + len(patch)] = patch
            changed.write_bytes(other)
            try:
                read_plan(changed).gguf.tokenizer()
            except (CheckpointError, ConfigError) as error:
                assert "m.gguf" in str(error)


@pytest.mark.parametrize("name", ["textonly", "textonly_moe"])
def test_transformers_own_answers(name, checkpoint, tmp_path):
    """A model that transformers saved, converted tensor by tensor: the same logits."""
    reference = checkpoint(name)
    config = json.loads((reference.folder / "config.json").read_text())
    weights = mx.load(str(reference.folder / "model.safetensors"))
    stored = {n: np.array(v) for n, v in weights.items() if n != "lm_head.weight"}
    gguf_files.write(tmp_path / "m.gguf", config, stored, lambda *_: "F32")
    got = np.array(g4.load(tmp_path / "m.gguf")(mx.array(reference.ids)))
    assert_close(got, reference.logits, 1e-4)
