"""Parameter counts, bytes by part, and the planner's verdicts."""

import sys
from types import SimpleNamespace

import mlx.core as mx
import psutil
import pytest
import tiny
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

import gemma4_mlx as g4
from gemma4_mlx.checkpoints import RELEASED, fit_table, machine_report, planner, print_fit
from gemma4_mlx.checkpoints.disk.planning import disk_speed
from gemma4_mlx.checkpoints.inventory import count, tensors, unused_tensors
from gemma4_mlx.checkpoints.machine import GiB, Machine, this_machine
from gemma4_mlx.checkpoints.planner import activation_bytes, cache_bytes, fit, weight_bytes
from gemma4_mlx.checkpoints.released import released
from gemma4_mlx.config import Gemma4Config
from gemma4_mlx.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    ContextError,
    GenerationError,
)
from gemma4_mlx.model import ops
from gemma4_mlx.model.gemma4 import Model

NAMES = [model.name for model in RELEASED]
TEXT_PARAMETERS = {
    "e2b": 4_628_569_379,
    "e4b": 7_463_013_418,
    "12b": 11_907_350_320,
    "26b-a4b": 25_233_141_790,
    "31b": 30_697_345_340,
}
#: All elements of the published files (E2B: from its header; E4B, 12B: from the files' sizes).
IN_FILE = {"e2b": 5_123_178_979, "e4b": 7_996_157_418, "12b": 11_959_730_224}


class TestReleased:
    @pytest.mark.parametrize("model", RELEASED, ids=NAMES)
    def test_equals_the_published_configuration(self, model, reference_dir):
        file = reference_dir / f"config_{model.repo.split('/')[1]}.json"
        published = Gemma4Config.from_file(file)
        for part in ("model_type", "text", "vision", "audio", "eos_token_ids"):
            assert getattr(model.config, part) == getattr(published, part), part

    @pytest.mark.parametrize("model", RELEASED, ids=NAMES)
    def test_parameter_counts(self, model):
        parts = count(model.config)
        assert parts["text"] == TEXT_PARAMETERS[model.name]
        if model.name in IN_FILE:
            unused = sum(t.size for t in unused_tensors(model.config).values())
            total = parts["text"] + parts.get("vision", 0) + parts.get("audio", 0) + unused
            assert total == IN_FILE[model.name]

    @pytest.mark.parametrize("model", RELEASED, ids=NAMES)
    def test_inventory_is_the_model(self, model):
        """Names and shapes of the true model, built without allocating a weight."""
        before = mx.get_active_memory()
        built = {n: v.shape for n, v in tree_flatten(Model(model.config).parameters())}
        assert built == {n: t.shape for n, t in tensors(model.config).items()}
        assert mx.get_active_memory() - before < 1e8

    def test_names(self):
        for name in ("26b-a4b", "26B", "google/gemma-4-26B-A4B-it", "gemma-4-26b-a4b-it-4bit"):
            assert released(name).name == "26b-a4b"
        with pytest.raises(ConfigError, match="27b"):
            released("google/gemma-3-27b-it")


class TestBytes:
    @pytest.mark.parametrize(
        ("name", "context", "gib"),
        [
            ("e2b", 8_192, 0.053),
            ("e2b", 131_072, 0.756),
            ("e4b", 32_768, 0.520),
            ("12b", 262_144, 4.313),
            ("26b-a4b", 32_768, 0.820),
            ("26b-a4b", 262_144, 5.195),
            ("31b", 131_072, 10.781),
        ],
    )
    def test_cache_in_16_bit(self, name, context, gib):
        """Full layers exactly; sliding ones the window and what chunked prefill adds to it."""
        text = released(name).config.text
        found = cache_bytes(text, context, 2)
        owners = text.layer_types[: text.first_kv_shared_layer]
        sliding = sum(kind != "full_attention" for kind in owners)
        window = text.sliding_window * text.num_key_value_heads * text.head_dim * 4 * sliding
        assert (found["full"] + window) / GiB == pytest.approx(gib, abs=6e-4)
        assert found["sliding"] >= window

    @pytest.mark.parametrize(
        ("name", "bits", "gib"),
        [
            ("e2b", 4, 2.42),
            ("e4b", 8, 7.38),
            ("12b", 4, 6.24),
            ("26b-a4b", 4, 13.22),
            ("31b", 8, 30.38),
        ],
    )
    def test_text_weights(self, name, bits, gib):
        weights = g4.fit(name, bits, memory=512).weights
        text = sum(size for part, size in weights.items() if part not in ("vision", "audio"))
        assert text / GiB == pytest.approx(gib, abs=0.0065)

    @pytest.mark.parametrize("bits", [None, 4, 8])
    def test_weights_equal_a_loaded_models(self, bits, tmp_path):
        folder = tiny.save(tmp_path, tiny.CONFIG, tiny.weights(tiny.CONFIG))
        # On a GPU the folder's type, which --as-gpu float32 would change.
        model = g4.load(folder, bits=bits, dtype=None if ops.on_cpu() else mx.bfloat16)
        held = sum(v.nbytes for _, v in tree_flatten(model.parameters()))
        assert sum(g4.fit(folder, bits, 64).weights.values()) == held
        assert sum(g4.fit(model, context=64).weights.values()) == held

    @pytest.mark.parametrize("bits", [None, 4])
    @pytest.mark.parametrize("backend", ["cpu", "metal"])
    @pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
    def test_a_loaded_model_is_counted_in_its_own_type(
        self, bits, backend, dtype, tmp_path, monkeypatch
    ):
        here = Machine(64 * GiB, 48 * GiB, backend)
        monkeypatch.setattr(planner, "this_machine", lambda: here)
        folder = tiny.save(tmp_path, tiny.CONFIG, tiny.weights(tiny.CONFIG))
        model = g4.load(folder, bits=bits, dtype=dtype)
        held = sum(v.nbytes for _, v in tree_flatten(model.parameters()))
        found = g4.fit(model, context=64)
        assert sum(found.weights.values()) == held
        assert found.cache == cache_bytes(model.config.text, 64, dtype.size)
        on_a_mac = g4.fit(model, context=64, memory=64)
        assert on_a_mac.cache == cache_bytes(model.config.text, 64, 2)

    def test_an_adapters_weights_count_to_what_they_adapt(self, tmp_path):
        folder = tiny.save(tmp_path, tiny.CONFIG, tiny.weights(tiny.CONFIG))
        model = g4.load(folder, bits=4)
        here, there = g4.fit(model, context=64), g4.fit(model, context=64, memory=64)
        keys = ["self_attn.q_proj"]
        linear_to_lora_layers(model, 1, {"rank": 2, "scale": 1.0, "dropout": 0.0, "keys": keys})
        adapted = g4.fit(model, context=64)
        changed = {p for p in adapted.weights if adapted.weights[p] != here.weights[p]}
        assert changed == {"attention"}
        assert sum(adapted.weights.values()) == sum(
            array.nbytes for _, array in tree_flatten(model.parameters())
        )
        assert g4.fit(model, context=64, memory=64).weights == there.weights

    @pytest.mark.parametrize("kv_bits", [None, 8])
    @pytest.mark.parametrize("tokens", [10, 200])
    def test_cache_bounds_a_models(self, kv_bits, tokens, tmp_path):
        config = tiny.CONFIG | {"text_config": tiny.TEXT_CONFIG | {"sliding_window": 64}}
        model = g4.load(tiny.save(tmp_path, config, tiny.weights(config)))
        cache = model.make_cache(kv_bits=kv_bits, kv_group_size=32)
        model(mx.arange(tokens)[None] % 300, cache=cache)
        item = model.dtype.size
        planned = cache_bytes(model.config.text, tokens, item, kv_bits, 32, chunk=tokens)
        mx.eval([entry.state for entry in cache])
        full = [e for e, kind in zip(cache, model.config.text.layer_types) if "full" in kind]
        held = sum(entry.nbytes for entry in full)
        if kv_bits:  # mlx-lm's quantized cache grows by 256 tokens
            held = held * tokens // 256
        assert held == planned["full"]
        sliding = sum(entry.nbytes for entry in cache if entry not in full)
        assert sliding <= planned["sliding"]

    def test_a_sliding_layer_holds_its_window_some_slack_and_a_chunk(self, tmp_path):
        """To the byte, after many chunks."""
        config = tiny.CONFIG | {"text_config": tiny.TEXT_CONFIG | {"sliding_window": 64}}
        model = g4.load(tiny.save(tmp_path, config, tiny.weights(config)))
        cache, text = model.make_cache(), model.config.text
        for _ in range(4):
            model(mx.arange(300)[None], cache=cache)
        mx.eval([entry.state for entry in cache])
        planned = cache_bytes(text, 1200, model.dtype.size, chunk=300)["sliding"]
        assert sum(e.nbytes for e, k in zip(cache, text.layer_types) if "full" not in k) == planned

    def test_activations_hold_scores_twice(self):
        """Token by token, all that grows with the context: one full layer's keys and values, the
        row of scores and what its softmax makes of it."""
        text = released("31b").config.text
        short, long = (
            g4.fit("31b", context=n, chunk=1, memory=64).activations for n in (100_000, 200_000)
        )
        full = text.layer_types.index("full_attention")
        keys_and_values = 2 * text.kv_heads_of(full) * text.head_dim_of(full)
        a_token = 2 * (keys_and_values + 2 * text.num_attention_heads)  # bytes, in 16 bits
        assert long - short == 100_000 * a_token

    def test_kv_bits_shrink_full_layers_only(self):
        plain, packed = (g4.fit("31b", context=131_072, kv_bits=k, memory=64) for k in (None, 4))
        assert packed.cache["sliding"] == plain.cache["sliding"]
        assert packed.cache["full"] == plain.cache["full"] * 4.5 / 16

    def test_scores_of_float32_are_materialised_on_a_gpu(self):
        """At 131,072 tokens a query's scores take 8 MiB (16 heads). A GPU holds blocks of 128 MiB
        and what the softmax makes of them; the CPU backend three masks of 128 queries and three
        rows of scores."""
        text = released("26b-a4b").config.text
        on_gpu, on_cpu = (activation_bytes(text, 131_072, 4, on_cpu=cpu) for cpu in (False, True))
        assert on_gpu - on_cpu == (2 * 128 - 3 * 16 - 3 * 8) * 2**20

    def test_16_bit(self):
        config = released("e2b").config
        assert sum(weight_bytes(config, {}, 2).values()) == 2 * sum(
            t.size for t in tensors(config).values()
        )


class TestVerdicts:
    def test_a_mac(self):
        fine, tight = g4.fit("e2b", memory=16), g4.fit("31b", memory=16)
        assert fine.fits and fine.spare > 0 and fine.most == 131_072
        assert not tight.fits and tight.spare < 0 and tight.most == 0
        assert fine.total == sum(size for _, size in fine.rows())

    def test_longest_context(self):
        one = g4.fit("26b-a4b", context=262_144, memory=24)
        assert not one.fits and 0 < one.most < 262_144
        assert g4.fit("26b-a4b", context=one.most, memory=24).fits
        assert not g4.fit("26b-a4b", context=one.most + 1, memory=24).fits

    def test_shares_of_a_macs_memory(self):
        assert Machine.mac(24).usable == 16 * GiB and Machine.mac(36).usable == 27 * GiB

    def test_this_machine(self):
        one = g4.fit("e2b")
        assert 0 < one.machine.usable <= one.machine.memory

    @pytest.mark.parametrize(
        ("metal", "info", "memory", "usable"),
        [
            (True, {"max_recommended_working_set_size": 5 * GiB}, 8, 5),
            (True, {"memory_size": 8 * GiB}, 8, 6),
            (False, {"memory_size": 16 * GiB}, 16, 12),
            (False, {"total_memory": 40 * GiB}, 40, 30),
        ],
    )
    def test_a_machine_with_a_gpu(self, metal, info, memory, usable, monkeypatch):
        """What Metal recommends, or three quarters; of a graphics card its own memory counts."""
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=8 * GiB))
        monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
        monkeypatch.setattr(mx.metal, "is_available", lambda: metal)
        monkeypatch.setattr(mx, "device_info", lambda: info)
        backend = "metal" if metal else "cuda"
        assert this_machine() == Machine(memory * GiB, usable * GiB, backend)

    def test_a_machine_without_mlx(self, monkeypatch):
        """It is planned for as a Mac with as much memory."""
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=24 * GiB))
        monkeypatch.setitem(sys.modules, "mlx.core", None)
        assert this_machine() == Machine(24 * GiB, 16 * GiB, "none")

    def test_arbitrary_configuration(self):
        one = g4.fit(Gemma4Config.from_dict(tiny.CONFIG), 4, 100, memory=8)
        assert set(one.weights) >= {"experts", "vision", "audio", "per-layer embeddings"}

    @pytest.mark.parametrize("context", [0, -1, 131_073, "8192", 8.5])
    def test_context_out_of_range(self, context):
        with pytest.raises(ContextError, match="131,072"):
            g4.fit("e2b", context=context)

    @pytest.mark.parametrize("wrong", [{"kv_bits": -4}, {"kv_bits": 16}, {"chunk": 0}], ids=str)
    def test_a_cache_that_cannot_be(self, wrong):
        (name,) = wrong
        with pytest.raises(GenerationError, match=f"{name} must be"):
            g4.fit("e2b", **wrong)

    @pytest.mark.parametrize("name", ["e3b", "no/such-model", 3.5, None])
    def test_no_such_model(self, name):
        with pytest.raises(ConfigError):
            g4.fit(name)

    @pytest.mark.parametrize("memory", [0, -3, float("nan"), 1e12, "24"])
    def test_impossible_memory(self, memory):
        with pytest.raises(ValueError, match="GiB"):
            g4.fit("e2b", memory=memory)


class TestShown:
    def test_text_and_html(self):
        one = g4.fit("26b-a4b", memory=24, context=32_768)
        for shown in (str(one), one._repr_html_()):
            for word in ("26b-a4b", "experts", "total", "32,768", "GiB"):
                assert word in shown

    def test_table(self):
        table = fit_table(24, contexts=(8_192, 262_144))
        assert table.fits["e2b", 4][262_144] is None
        text = str(table)
        assert all(name in text for name in NAMES) and "256K" in text
        assert table._repr_html_().count("<tr>") == 1 + 5 * 3
        one = fit_table(24, models="e2b", bits=4, contexts=8_192)
        assert list(one.fits) == [("e2b", 4)] and one.contexts == (8_192,)

    def test_command_line(self):
        lines = []
        print_fit(memory=24, echo=lines.append)
        print_fit("12b", bits=8, memory=24, context=1_000, echo=lines.append)
        assert "31b" in lines[0] and "1,000 tokens" in lines[1]

    def test_machine_report(self):
        report = "\n".join(machine_report())
        for word in ("gemma4-mlx", "Python", "mlx ", "backend:", "memory:", "BLAS:", "fits at"):
            assert word in report


class TestOnDisk:
    def test_experts_get_what_is_given(self):
        whole = g4.fit("26b-a4b", memory=24)
        some = g4.fit("26b-a4b", memory=24, experts="disk", expert_memory="4GB", disk_speed=3)
        each = whole.weights["experts"] // 128
        assert some.weights == whole.weights | {"experts": 39 * each}
        assert 4 * 10**9 // each == 39 and some.reading.kept == 39
        assert some.reading.nbytes == round(8 * each * 89 / 128)
        assert "39 of 128 experts held; up to about 0.56 GB" in some.verdict
        assert f"{3e9 / some.reading.nbytes:.2g} tokens/s from a disk of 3.0 GB/s" in some.verdict

    def test_experts_get_what_the_rest_leaves(self):
        held = g4.fit("26b-a4b", bits=16, memory=24, experts="disk")
        assert held.fits and held.spare < held.weights["experts"] / held.reading.kept
        assert not g4.fit("26b-a4b", bits=16, memory=24).fits
        small = g4.fit("26b-a4b", memory=64, experts="disk")
        assert small.reading.nbytes == 0 and "all 128 experts held" in small.verdict

    def test_layers_one_at_a_time(self):
        whole = g4.fit("31b", bits=16, memory=24)
        one = g4.fit("31b", bits=16, memory=24, layers="disk")
        assert one.fits and not whole.fits
        assert one.weights["embeddings"] == whole.weights["embeddings"]
        assert 60 * one.weights["one layer"] >= one.reading.nbytes > 50 * one.weights["one layer"]

    @pytest.mark.cpu
    def test_it_is_what_is_loaded(self, tmp_path):
        folder = tiny.save(tmp_path, tiny.CONFIG, tiny.weights(tiny.CONFIG))
        packed = tmp_path / "packed"
        g4.save(g4.load(folder, bits=4), packed)
        memory = 3 * g4.fit(packed, context=4096).weights["experts"] // 8
        model = g4.load(packed, experts="disk", expert_memory=memory)
        planned = g4.fit(packed, context=4096, experts="disk", expert_memory=memory)
        assert planned.reading.kept == model.on_disk.slots == 3
        assert planned.weights["experts"] == model.on_disk.memory
        assert g4.fit(model, context=4096).weights["experts"] == model.on_disk.memory

    def test_the_disk_is_measured(self, tmp_path):
        file = tmp_path / "model.safetensors"
        file.write_bytes(bytes(1 << 22))
        assert 1e7 < disk_speed(file) < 1e12
        (tmp_path / "small").write_bytes(bytes(100))
        assert disk_speed(tmp_path / "small") is None
        with pytest.raises(CheckpointError, match="cannot be read"):
            disk_speed(tmp_path / "none")

    def test_bad_arguments(self):
        for options in (dict(experts="x"), dict(expert_memory="4GB"), dict(layers="gpu")):
            with pytest.raises(CheckpointError, match=r"expert_memory is for|expected .memory."):
                g4.fit("26b-a4b", **options)
        with pytest.raises(CheckpointError, match="no experts"):
            g4.fit("31b", experts="disk")
        with pytest.raises(CheckpointError, match="a token needs 8"):
            g4.fit("26b-a4b", experts="disk", expert_memory="100MB")
        with pytest.raises(ConfigError, match="name a model"):
            print_fit(layers="disk")


@pytest.mark.parametrize("strategy", ["tensor", "pipeline"])
@pytest.mark.parametrize("name", ["e2b", "e4b", "12b", "26b-a4b", "31b"])
@pytest.mark.parametrize("bits", [4, 16])
def test_machines_share_a_model(name, bits, strategy):
    plan = fit(name, bits=bits, machines=[24, 24], strategy=strategy)
    whole = fit(name, bits=bits, memory=24)
    *held, one = [text_bytes(each) for each in (*plan.ranks, whole)]
    assert one <= sum(held) < 1.02 * one  # norms, the router and too few KV heads are everywhere
    assert max(held) < (0.52 if strategy == "tensor" else 0.75) * one
    assert not {"vision", "audio"} & plan.ranks[1].weights.keys()
    assert plan.fits == all(rank.fits for rank in plan.ranks)
    assert plan.verdict in str(plan) and plan.verdict in plan._repr_html_()
    layers, traffic = whole_layers(name), plan.traffic[0]
    if strategy == "tensor":
        # The residual stream twice a layer, the token's embedding (per layer, too), the logits.
        assert traffic.messages == 2 * layers + (3 if name in ("e2b", "e4b") else 2)
    else:
        assert traffic.messages <= 4


def text_bytes(plan):
    return sum(size for part, size in plan.weights.items() if part not in ("vision", "audio"))


def whole_layers(name):
    return released(name).config.text.num_hidden_layers


def test_two_macs_of_24_hold_what_one_cannot():
    """26B-A4B at 16 bits needs two Macs of 64 GiB; each has 55 % of it at most, towers included."""
    assert not fit("26b-a4b", bits=16, memory=64).fits
    plan = fit("26b-a4b", bits=16, machines=[64, 64])
    whole = sum(fit("26b-a4b", bits=16, memory=64).weights.values())
    assert plan.fits and max(sum(r.weights.values()) for r in plan.ranks) < 0.55 * whole
    packed = fit("26b-a4b", bits=4, machines=[24, 24])
    whole = sum(fit("26b-a4b", bits=4, memory=24).weights.values())
    assert max(sum(r.weights.values()) for r in packed.ranks) < 0.55 * whole


def test_what_several_machines_cannot_do_is_refused():
    for how, told in (
        (dict(machines=[24]), "names 1"),
        (dict(machines=[24, 24], strategy="data"), "expected 'tensor' or 'pipeline'"),
        (dict(machines=[24, 24], experts="disk"), "leave out 'disk'"),
        (dict(machines=[24] * 17), "17 machines for 16 attention heads"),
    ):
        with pytest.raises(ClusterError, match=told):
            fit("26b-a4b", **how)
