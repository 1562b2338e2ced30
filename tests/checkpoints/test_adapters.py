"""Adapters as mlx-lm and PEFT save them, beside 16-bit and quantized models."""

import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

import gemma4_mlx as g4
from gemma4_mlx.errors import CheckpointError

ABOUT = {"rank": 4, "scale": 2.0, "dropout": 0.0}
DORA = ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"]
TOKENS = mx.arange(3, 43)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("base"), tiny.CONFIG, tiny.weights(tiny.CONFIG))


def write(path: Path, tensors: dict, **about) -> Path:
    path.mkdir(exist_ok=True)
    mx.save_safetensors(str(path / "adapters.safetensors"), tensors)
    about = {"fine_tune_type": "lora", "num_layers": 5, "lora_parameters": ABOUT} | about
    (path / "adapter_config.json").write_text(json.dumps(about))
    return path


def adapted(folder, path, dora=False, **how):
    """A model that mlx-lm's tuner adapted, at random, and the folder of its adapter."""
    model = g4.load(folder, **how)
    model.freeze()
    parameters = ABOUT | ({"keys": DORA} if dora else {})
    linear_to_lora_layers(model, 5, parameters, use_dora=dora)
    mx.random.seed(3)
    for _, layer in model.named_modules():
        if "lora_b" in layer:
            layer.lora_b = mx.random.normal(layer.lora_b.shape) * 0.05
    kind = "dora" if dora else "lora"
    weights = dict(tree_flatten(model.trainable_parameters()))
    model.eval()
    return model, write(path, weights, fine_tune_type=kind, lora_parameters=parameters)


def apart(a, b) -> float:
    """The largest difference, as a share of the largest logit."""
    return float(mx.abs(a - b).max() / mx.abs(b).max())


@pytest.mark.parametrize("how", [{}, {"bits": 4}, {"mode": "mxfp4"}], ids=str)
@pytest.mark.parametrize("dora", [False, True])
def test_mlx_lms_own(folder, dora, how, tmp_path):
    """Every linear layer, embeddings and experts included, is what mlx-lm's tuner made."""
    tuned, path = adapted(folder, tmp_path / "adapter", dora, **how)
    plain = g4.load(folder, **how)
    model = g4.load(folder, adapter=path, **how)
    assert dora or any("switch_glu" in name for name in model.adapter.layers)
    right, base = tiny.logits(tuned), tiny.logits(plain)
    assert apart(tiny.logits(model), right) < 1e-5 < 1e-2 < apart(right, base)
    assert model.fingerprint == tuned.fingerprint != plain.fingerprint
    with model.adapter.off():
        assert mx.array_equal(tiny.logits(model), base).item()
        assert model.fingerprint == plain.fingerprint and model.adapter is None
    assert apart(tiny.logits(model), right) < 1e-5
    if not how:
        with model.adapter.merged():
            assert apart(tiny.logits(model), right) < 1e-4


def test_scale(folder, tmp_path):
    _, path = adapted(folder, tmp_path / "adapter")
    half = g4.load(folder, adapter=path, adapter_scale=0.5)
    model = g4.load(folder, adapter=path)
    whole, first = tiny.logits(model), model.fingerprint
    model.adapter.scale = 0.5
    assert mx.array_equal(tiny.logits(model), tiny.logits(half)).item()
    assert model.fingerprint == half.fingerprint != first
    model.adapter.scale = 0
    assert mx.array_equal(tiny.logits(model), tiny.logits(g4.load(folder))).item()
    model.adapter.scale = 1
    assert mx.array_equal(tiny.logits(model), whole).item() and model.fingerprint == first


@pytest.fixture(scope="module")
def peft(checkpoint, tmp_path_factory):
    pytest.importorskip("peft")

    def get(base, *names):
        reference, out = checkpoint(base).folder, tmp_path_factory.mktemp("peft")
        script = Path(__file__).parent / "peft_reference.py"
        command = [sys.executable, str(script), str(reference), str(out), *names]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[-2000:]
        return reference, [out / name for name in names]

    return get


@pytest.mark.parametrize("base, names", [("e2b", ["lora", "dora", "rslora"]), ("moe", ["experts"])])
def test_peft_through_transformers(peft, base, names):
    reference, adapters = peft(base, *names)
    for path in adapters:
        logits = g4.load(reference, adapter=path)(TOKENS)[0]
        assert apart(logits, mx.array(np.load(path / "logits.npy"))) < 1e-4, path.name
    packed = g4.load(reference, adapter=adapters[0], bits=4).layers[0].self_attn.q_proj
    assert "scales" in packed.linear
    stored = mx.load(str(adapters[0] / "adapter_model.safetensors"))
    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_"
    a, b = (stored[f"{name}{x}.weight"] for x in "AB")
    about = json.loads((adapters[0] / "adapter_config.json").read_text())
    x = mx.random.normal((3, a.shape[1]))
    right = packed.linear(x) + about["lora_alpha"] / about["r"] * (x @ a.T @ b.T)
    assert apart(packed(x), right) < 1e-5


class TestRefused:
    NAME = tiny.TEXT + "layers.0.self_attn.q_proj"

    def refused(self, folder, path, *patterns):
        for pattern in patterns:
            with pytest.raises(CheckpointError, match=pattern):
                g4.load(folder, adapter=path)

    @pytest.mark.parametrize("name", ["adapter_model.bin", "adapters.npz", "adapter.pt"])
    def test_pickled(self, folder, name, tmp_path):
        (tmp_path / name).write_bytes(b"\x80\x04")
        self.refused(folder, tmp_path, f"{name}.*never opened")

    def test_of_another_base(self, folder, tmp_path):
        tensors = {
            self.NAME + ".lora_a": mx.zeros((96, 4)),
            self.NAME + ".lora_b": mx.zeros((4, 8)),
        }
        path = write(tmp_path / "a", tensors)
        self.refused(folder, path, r"another base.*q_proj has \(96, 4\) .*takes \(128, 4\)")

    def test_of_a_layer_that_is_not_there(self, folder, tmp_path):
        name = self.NAME.replace("layers.0", "layers.60")
        tensors = {name + ".lora_a": mx.zeros((128, 4)), name + ".lora_b": mx.zeros((4, 128))}
        self.refused(folder, write(tmp_path / "a", tensors), "layers.60.*does not exist here")

    def test_cut_short(self, folder, tmp_path):
        _, path = adapted(folder, tmp_path / "a")
        file = path / "adapters.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        self.refused(folder, path, "cut short")

    def test_half_an_update(self, folder, tmp_path):
        path = write(tmp_path / "a", {self.NAME + ".lora_a": mx.zeros((128, 4))})
        self.refused(folder, path, "only one of the two")

    @pytest.mark.parametrize(
        "about, pattern",
        [
            ({"fine_tune_type": "full"}, "'full'"),
            ({"lora_parameters": {}}, "scale"),
            ({"lora_parameters": {"scale": True}}, "scale"),
        ],
    )
    def test_configurations(self, folder, about, pattern, tmp_path):
        tensors = {
            self.NAME + ".lora_a": mx.zeros((128, 4)),
            self.NAME + ".lora_b": mx.zeros((4, 8)),
        }
        self.refused(folder, write(tmp_path / "a", tensors, **about), pattern)

    def test_no_adapter(self, folder, tmp_path):
        self.refused(folder, tmp_path, "no adapter")
        self.refused(folder, tmp_path / "nowhere", "no folder here")


class TestCachesAndTraces:
    def tokens(self, model, cache):
        options = {"max_tokens": 6, "temperature": 0}
        events = g4.stream(model, list(range(3, 43)), cache=cache, options=options)
        return [event.id for event in events if type(event).__name__ == "Token"]

    def test_a_cache_is_not_gone_on_with(self, folder, tmp_path):
        """Neither in memory, nor from a file, nor after switching off."""
        _, path = adapted(folder, tmp_path / "a")
        model = g4.load(folder, adapter=path)
        right = self.tokens(model, None)
        cache = g4.PromptCache(model)
        with model.adapter.off():
            self.tokens(model, cache)
            cache.save(tmp_path / "cache")
        with pytest.raises(CheckpointError, match="another adapter"):
            g4.PromptCache.load(tmp_path / "cache", model)
        assert self.tokens(model, cache) == right
        with model.adapter.off():
            g4.PromptCache.load(tmp_path / "cache", model)

    def test_a_trace_is_not_gone_on_with(self, folder, tmp_path):
        """Attention that it did not keep is computed by the adapted model, or not at all."""
        _, path = adapted(folder, tmp_path / "a")
        model = g4.load(folder, adapter=path)
        trace = g4.trace(model, list(range(3, 43)), attention=g4.AttentionPlan(retain="none"))
        weights = trace.attention.row(2, 0, query=20)
        with model.adapter.off():
            trace = g4.trace(model, list(range(3, 43)), attention=g4.AttentionPlan(retain="none"))
        with pytest.raises(g4.errors.TraceError, match="other weights"):
            trace.attention.row(2, 0, query=20)
        with model.adapter.off():
            assert np.abs(trace.attention.row(2, 0, query=20) - weights).max() > 1e-3

    def test_mlx_lms_tuner_counts_too(self, folder, tmp_path):
        model = g4.load(folder)
        cache = g4.PromptCache(model)
        self.tokens(model, cache)
        tuned, _ = adapted(folder, tmp_path / "a")
        assert tuned.fingerprint != model.fingerprint
        linear_to_lora_layers(model, 5, ABOUT)
        for _, layer in model.named_modules():
            if "lora_b" in layer:
                layer.lora_b = mx.random.normal(layer.lora_b.shape) * 0.05
        model.eval()
        assert self.tokens(model, cache) == self.tokens(model, None)


class TestSaved:
    """Merged with the adapter, for mlx-lm (in a process of its own) and for us."""

    CODE = """
import sys, numpy as np, mlx.core as mx
from pathlib import Path
from mlx_lm.utils import load_model
model, _ = load_model(Path(sys.argv[1]))
np.save(sys.argv[2], np.array(model(mx.arange(3, 43)[None]).astype(mx.float32)))
"""

    @pytest.mark.parametrize("how", [{}, {"bits": 4}], ids=str)
    @pytest.mark.parametrize("base", ["e2b", "moe"])
    def test_mlx_lm_loads_it(self, checkpoint, base, how, tmp_path):
        reference = checkpoint(base).folder
        tuned, path = adapted(reference, tmp_path / "a", **how)
        model = g4.load(reference, adapter=path, **how)
        g4.save(model, tmp_path / "merged", dtype="float32")
        assert apart(model(TOKENS), tuned(TOKENS)) < 1e-5  # unchanged itself
        again = g4.load(tmp_path / "merged")
        assert again.adapter is None and again.fingerprint != model.fingerprint
        if not how:
            assert apart(again(TOKENS), model(TOKENS)) < 1e-4
        with model.adapter.merged():
            assert apart(again(TOKENS), model(TOKENS)) < 1e-4
        out = tmp_path / "logits.npy"
        command = [sys.executable, "-c", self.CODE, str(tmp_path / "merged"), str(out)]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[-2000:]
        assert apart(mx.array(np.load(out)), again(TOKENS)) < 2e-4

    def test_packed_weights_are_the_updated_ones(self, folder, tmp_path):
        """Within half a step of what base and update come to."""
        _, path = adapted(folder, tmp_path / "a", bits=8)
        model = g4.load(folder, adapter=path, bits=8)
        name = tiny.TEXT + "layers.0.experts.switch_glu.down_proj"
        layer = dict(model.named_modules())[name]
        whole = mx.dequantize(
            layer.linear.weight, layer.linear.scales, layer.linear.biases, group_size=64, bits=8
        ) + layer.scale * (layer.lora_b @ layer.lora_a)
        with model.adapter.merged():
            packed = dict(model.named_modules())[name]
            got = mx.dequantize(packed.weight, packed.scales, packed.biases, group_size=64, bits=8)
            step = mx.repeat(packed.scales, 64, axis=-1)
            assert (mx.abs(got - whole) <= 0.51 * mx.abs(step) + 0.01).all().item()

    def test_nothing_is_overwritten(self, folder, tmp_path):
        (tmp_path / "mine").write_text("words")
        with pytest.raises(CheckpointError, match="not an empty folder"):
            g4.save(g4.load(folder), tmp_path)
        assert (tmp_path / "mine").read_text() == "words"


def test_from_the_terminal(tmp_path, capsys):
    from gemma4_mlx.cli import main

    _, path = adapted(None, tmp_path / "a")
    assert main(["chat", "Hello", "--max-tokens", "3", "--adapter", str(path)]) == 0
    assert main(["chat", "Hello", "--adapter", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
