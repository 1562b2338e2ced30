"""What the README says of mlx-lm: its own entry points take our models."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest
import tiny
from mlx.utils import tree_flatten
from mlx_lm.tuner.trainer import TrainingArgs, train
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from waiting import PATIENCE

import gemma4_mlx as g4

LORA = {"rank": 4, "scale": 4.0, "dropout": 0.0}
# Two layers: MLX's CPU backend calls a C++ compiler for every fused kernel of a compiled step.
TEXT = tiny.TEXT_CONFIG | {
    "num_hidden_layers": 2,
    "layer_types": [tiny.SLIDING, tiny.FULL],
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
    "use_bidirectional_attention": "vision",
}
EXPERTS = tiny.CONFIG | {"audio_config": None, "text_config": TEXT}
MODELS = {
    "per-layer embeddings": tiny.CONFIG
    | {"text_config": TEXT | {"enable_moe_block": False, "hidden_size_per_layer_input": 64}},
    "dense": EXPERTS | {"text_config": TEXT | {"enable_moe_block": False}},
    "experts": EXPERTS,
    "unified": tiny.UNIFIED
    | {"text_config": TEXT | {"model_type": "gemma4_unified_text", "enable_moe_block": False}},
}


@pytest.fixture(params=MODELS)
def folder(request, tmp_path):
    config = MODELS[request.param]
    return tiny.save(tmp_path / "model", config, tiny.weights(config))


def losses(model, path, **options) -> list[float]:
    """Loss at each report while mlx-lm's trainer learns one short sequence by heart."""
    rows = [(np.random.default_rng(0).integers(3, 290, 40).tolist(), 0)] * 8
    found = []

    class Report:
        def on_train_loss_report(self, about):
            found.append(about["train_loss"])

        def on_val_loss_report(self, about):
            pass

    arguments = dict(
        batch_size=4, iters=6, val_batches=1, steps_per_report=2, steps_per_eval=100,
        steps_per_save=100, max_seq_length=64, adapter_file=str(path / "adapters.safetensors"),
    )  # fmt: skip
    train(
        model,
        optim.Adam(learning_rate=1e-2),
        rows,
        rows,
        TrainingArgs(**arguments | options),
        training_callback=Report(),
    )
    model.eval()
    return found


def trained(model, path, use_dora=False, **config) -> list[float]:
    path.mkdir()
    about = {"fine_tune_type": "dora" if use_dora else "lora", "num_layers": len(model.layers)}
    about["lora_parameters"] = config = LORA | config
    (path / "adapter_config.json").write_text(json.dumps(about))
    model.freeze()
    linear_to_lora_layers(model, len(model.layers), config, use_dora=use_dora)
    return losses(model, path)


class TestTrainer:
    def test_a_compiled_call_gives_the_same(self, folder):
        model = g4.load(folder)
        tokens = mx.arange(3, 43)[None]
        assert mx.allclose(mx.compile(lambda t: model(t))(tokens), model(tokens), atol=1e-4).item()

    def test_lora(self, folder, tmp_path):
        """mlx-lm's default adapts every linear layer, embeddings and experts included."""
        model = g4.load(folder)
        found = trained(model, tmp_path / "adapter")
        assert found[-1] < found[0] - 0.1
        again = load_adapters(g4.load(folder), str(tmp_path / "adapter"))
        again.eval()
        assert mx.allclose(tiny.logits(again), tiny.logits(model), atol=1e-4).item()

    @pytest.mark.slow
    @pytest.mark.parametrize("how", [{"bits": 4}, {"mode": "mxfp4"}])
    def test_quantized(self, how, tmp_path):
        config = MODELS["experts"]
        folder = tiny.save(tmp_path / "model", config, tiny.weights(config))
        model = g4.load(folder, **how)
        assert "scales" in model.layers[0].experts.switch_glu.gate_proj
        found = trained(model, tmp_path / "adapter")
        assert found[-1] < found[0] - 0.1
        names = dict(tree_flatten(model.trainable_parameters()))
        assert any("switch_glu" in name for name in names)

    @pytest.mark.slow
    def test_dora(self, tmp_path):
        config = MODELS["dense"]
        model = g4.load(tiny.save(tmp_path / "model", config, tiny.weights(config)))
        keys = ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"]
        found = trained(model, tmp_path / "adapter", use_dora=True, keys=keys)
        assert found[-1] < found[0] - 0.1


class TestEntryPoints:
    """The README names those that work, and those that cannot with our caches."""

    @pytest.fixture(scope="class")
    def model(self):
        return g4.load()

    PROMPT = tuple(range(5, 45))

    def test_generate_step(self, model):
        from mlx_lm.generate import generate_step

        theirs = generate_step(mx.array(self.PROMPT), model, max_tokens=8, prefill_step_size=16)
        options = {"max_tokens": 8, "temperature": 0}
        events = g4.stream(model, list(self.PROMPT), options=options)
        ours = [event.id for event in events if type(event).__name__ == "Token"]
        assert [int(token) for token, _ in theirs][: len(ours)] == ours

    def test_evaluate(self, model):
        """The trainer's loss is the mean negative log-probability of the tokens."""
        from mlx_lm.tuner.trainer import evaluate

        rows = [(list(self.PROMPT), 0)]
        found = evaluate(model, rows, batch_size=1, num_batches=-1, max_seq_length=64)
        padded = (*self.PROMPT, 0)  # mlx-lm counts the first token of its padding in
        logits = model(mx.array([padded]))[0, :-1]
        wanted = logits - mx.logsumexp(logits, -1, keepdims=True)
        wanted = -mx.take_along_axis(wanted, mx.array(padded[1:])[:, None], -1).mean().item()
        assert found == pytest.approx(wanted, rel=1e-4)

    def test_batches_are_refused(self, model):
        from mlx_lm.generate import BatchGenerator

        with pytest.raises(ValueError, match="does not yet support batching"):
            generator = BatchGenerator(model)
            generator.insert([list(self.PROMPT), [5, 6]])
            generator.next()

    def test_its_cache_files_are_refused(self, model, tmp_path):
        from mlx_lm.models.cache import load_prompt_cache, make_prompt_cache, save_prompt_cache

        cache = make_prompt_cache(model)
        mx.eval(model(mx.array([self.PROMPT]), cache=cache))
        save_prompt_cache(str(tmp_path / "cache.safetensors"), cache)
        with pytest.raises(KeyError, match="KVCache"):
            load_prompt_cache(str(tmp_path / "cache.safetensors"))

    def test_gradient_checkpointing(self, tmp_path, monkeypatch):
        from gemma4_mlx.model.decoder import DecoderLayer

        monkeypatch.setattr(DecoderLayer, "__call__", DecoderLayer.__call__)  # mlx-lm replaces it
        config = MODELS["dense"]
        model = g4.load(tiny.save(tmp_path / "model", config, tiny.weights(config)))
        model.freeze()
        linear_to_lora_layers(model, 2, LORA)
        found = losses(model, tmp_path, grad_checkpoint=True)
        assert found[-1] < found[0] - 0.1

    @pytest.mark.slow
    def test_server(self, model, tmp_path):
        """On a folder that ``save`` wrote, in turns with thinking and without: what our chat
        says. mlx-lm turns thinking on, and calls reasoning whatever stands in a thought that the
        model does not close; with the flag that the README names the answer is text."""
        g4.save(model, tmp_path / "saved", dtype="float32")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "mlx_lm.server", "--model", str(tmp_path / "saved")]
        command += ["--port", str(port), "--chat-template-args", '{"enable_thinking": false}']
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            for question in ("Count from 3 to 9", "What is 8 + 59?"):
                for thinking in (False, True):
                    own = g4.Chat(
                        model, thinking=thinking, options={"max_tokens": 24, "temperature": 0}
                    )
                    reply = own.send(question)
                    message = asked(server, port, question, thinking)
                    reasoning, content = message.get("reasoning") or "", message["content"] or ""
                    assert (reasoning + content).split() == (reply.thinking + reply.text).split()
                    assert thinking or not reasoning
        finally:
            server.kill()
            server.wait()


def asked(server, port: int, question: str, thinking: bool) -> dict:
    """mlx-lm's server's message; thinking is asked for where it is wanted alone."""
    body = {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 24,
        "temperature": 0,
    } | ({"chat_template_kwargs": {"enable_thinking": True}} if thinking else {})
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    for _ in range(PATIENCE):
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)["choices"][0]["message"]
        except urllib.error.URLError:
            assert server.poll() is None
            time.sleep(1)
    raise AssertionError("mlx-lm's server does not answer")
