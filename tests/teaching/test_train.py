"""The training code: optimizer, schedule, resuming, export."""

import json
import pickle

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from safetensors.torch import save_file

from gemma4_mlx.teaching import (
    CHECKPOINT,
    architecture,
    data,
    parts,
    reference,
    schedule,
    train,
)
from gemma4_mlx.teaching.tokenizer import load as load_tokenizer


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer(folder, steps=3, tokens=200):
    stream = data.Stream(load_tokenizer(CHECKPOINT), 0, {}, folder)
    return train.Trainer(stream, folder, 0, steps, smoke=True, tokens=tokens)


def test_fast_norms_have_the_references_gradients():
    x = torch.randn(3, 5, 8, dtype=torch.double, requires_grad=True)
    w = torch.randn(8, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: reference.FastNorm.apply(x, w, 1e-6), (x, w))
    assert torch.autograd.gradcheck(lambda x: reference.FastNorm.apply(x, None, 1e-6), (x,))


@pytest.mark.parametrize("rows", [None, [[2, 0], [1, 3]]], ids=["alone", "packed"])
def test_the_training_batch_gives_the_references_logits(rows):
    """Our masks and padding against the class's own forward on each sample alone."""
    model = reference.build()
    encode = data.Encoder(load_tokenizer(CHECKPOINT))
    rng = np.random.default_rng(0)
    samples = [encode(data.make(name, rng)) for name in ("count", "scene", "tools", "tones")]
    batch = data.collate(samples, rows)
    with torch.no_grad():
        for i, sample in enumerate(samples):
            ours = reference.logits_at(model, batch, batch["sample"] == i)
            alone = data.collate([sample])
            theirs = model(
                input_ids=alone["ids"],
                mm_token_type_ids=(alone["ids"] == 110).long(),
                pixel_values=alone.get("pixels"), image_position_ids=alone.get("places"),
                input_features=alone.get("mel"), input_features_mask=alone.get("mel_mask"),
            ).logits[0]  # fmt: skip
            np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = trainer(tmp_path)
    for _ in range(3):
        whole.one_step()
    first = trainer(tmp_path)
    first.one_step()
    first.save()
    second = trainer(tmp_path)
    assert second.resume() and second.step == 1
    second.one_step()
    second.one_step()
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_every_stage_is_reached_and_the_rate_falls():
    stages = [schedule.stage_at(step, 2000) for step in range(2000)]
    assert list(dict.fromkeys(stage.name for stage, _ in stages)) == [
        stage.name for stage in schedule.STAGES
    ]
    assert stages[0][1] < 0.1 < stages[70][1] == 1.0
    assert stages[1999][1] < 0.1


@pytest.mark.parametrize("name", ["look", "listen"])
def test_a_tower_trains_alone(tmp_path, name):
    speech = tmp_path / "pool-speech-2.pickle"
    clip = (np.random.default_rng(0).normal(size=(60, 128)).astype("f4"), np.ones(60, bool))
    encode = data.Encoder(load_tokenizer(CHECKPOINT))
    words = [encode.ids(word) for word in ("Two.", "One.")]
    said = [data.Encoded(ids, [True] * len(ids), 7, [], [clip]) for ids in words]
    speech.write_bytes(pickle.dumps(said))

    def fresh():
        run = trainer(tmp_path)
        run.stream.sizes["speech"] = 2  # read from the file above instead of spoken
        return run

    stage = next(stage for stage in schedule.STAGES if stage.name == name)
    run = fresh()
    before = {key: p.clone() for key, p in run.model.named_parameters()}
    run.one_alone(stage, 0.5)
    run.one_alone(stage, 0.5)
    changed = {key for key, p in run.model.named_parameters() if not torch.equal(p, before[key])}
    tower = {"look": "vision_tower", "listen": "audio_tower"}[name]
    assert changed and all(tower in key for key in changed)
    run.save()
    again = fresh()
    assert again.resume() and again.step == 2
    run.one_alone(stage, 0.5)
    again.one_alone(stage, 0.5)
    for a, b in zip(run.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_stage_is_averaged_in(tmp_path):
    run = trainer(tmp_path)
    run.before = {name: p.clone() for name, p in run.model.state_dict().items()}
    run.one_step()  # of a stage that is not
    optimizer = run.optimizer
    assert run.before is None
    run.before = before = {name: p.clone() for name, p in run.model.state_dict().items()}
    changed = next(iter(run.model.parameters()))
    changed.data.add_(1.0)
    after = {name: p.clone() for name, p in run.model.state_dict().items()}
    run.average()
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(value, (before[name] + after[name]) / 2)
    assert run.before is None and run.optimizer is not optimizer


def test_a_stage_follows_a_checkpoint(tmp_path):
    """From its weights, as it would behind the stages before; killed, it goes on where it was."""

    def begun():
        run = trainer(tmp_path, steps=schedule.STEPS, tokens=300)
        run.smoke = False
        run.begin_after(CHECKPOINT, schedule.FRESH["consider"])
        return run

    run = begun()
    assert schedule.stage_at(run.step)[0] is schedule.FRESH["consider"]
    assert schedule.stage_at(run.step - 1)[0].name == "keep"
    held = {name: value.clone() for name, value in run.model.state_dict().items()}
    name = "model.language_model.layers.0.mlp.gate_proj.weight"
    run.model.state_dict()[name].mul_(1.0001)  # less than a checkpoint tells
    optimizer, run.routing.load = run.optimizer, torch.ones(3)
    run.refresh()
    torch.testing.assert_close(run.model.state_dict(), held, rtol=0, atol=0)
    assert run.optimizer is not optimizer and run.routing.load is None
    with pytest.raises(SystemExit, match="is no teaching model"):
        save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
        run.begin_after(tmp_path, schedule.FRESH["consider"])


def test_an_expert_without_tokens_gets_some():
    model = reference.build()
    routing = reference.Routing(model)
    router = model.model.language_model.layers[3].router
    with torch.no_grad():
        router.proj.weight[7] *= 0
        x = torch.randn(4000, 128)

        def chosen():
            p = torch.cat([layer.router(x)[0][None] for layer in routing.layers])
            routing.probabilities = []
            return p, p[3].topk(2, dim=-1).indices

        p, before = chosen()
        assert (3, 7) in routing.revive(p)
        _, after = chosen()
    assert (before == 7).float().mean() < routing.DEAD < 0.01 < (after == 7).float().mean()
    untouched = (before == after).all(1) | (after == 7).any(1)
    assert untouched.float().mean() > 0.99


def nothing_missing(n):
    none = torch.zeros(n, dtype=torch.bool)
    return parts.Missing(torch.full((n, 8), -1), none, torch.ones(n, 8, 4), none.clone())


def test_a_sample_goes_without_a_part_and_its_neighbour_does_not():
    """In packed rows: without an expert that tokens chose, with none but one, without a head."""
    model = reference.build()
    taken = parts.Parts(model)
    encode = data.Encoder(load_tokenizer(CHECKPOINT))
    rng = np.random.default_rng(3)
    samples = [encode(data.make(name, rng)) for name in ("chat", "count")]
    batch = data.collate(samples, [[0, 1]])
    chosen = []
    router = model.model.language_model.layers[parts.LAYER].router
    hook = router.register_forward_hook(lambda module, inputs, output: chosen.append(output[2]))

    def logits(missing):
        taken.take(missing, batch)
        with torch.no_grad():
            both = [reference.logits_at(model, batch, batch["sample"] == i) for i in (0, 1)]
        taken.take(None, batch)
        return both

    whole = logits(nothing_missing(3))
    hook.remove()
    for a, b in zip(whole, logits(None), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    chosen = chosen[0][: len(samples[0].ids)]
    often = chosen.flatten().bincount(minlength=16).argmax().item()
    for expert, met in ((often, chosen == often), (-2 - often, chosen != often)):
        missing = nothing_missing(3)
        missing.experts[0, parts.LAYER] = expert
        first, second = logits(missing)
        torch.testing.assert_close(second, whole[1], rtol=1e-4, atol=1e-5)
        # Layers 6 and 7 take keys and values from below: tokens do not meet again behind it.
        changed = (first - whole[0]).abs().amax(1) > 1e-4
        assert (changed == met.any(1)).all() and changed.any()
    missing = nothing_missing(3)
    missing.heads[0][parts.HEAD] = 0
    first, second = logits(missing)
    torch.testing.assert_close(second, whole[1], rtol=1e-4, atol=1e-5)
    assert ((first - whole[0]).abs().amax(1) > 1e-5).all()


def test_a_needed_part_is_its_domains():
    taken = parts.Parts(reference.build(), own=0.5, other=0.5)
    looks = [(data.COPY, 1, [0])]
    samples = [data.Encoded([1, 1, 1], [False, True, True], i % 8, looks=looks) for i in range(800)]
    missing = taken.draw(samples, np.random.default_rng(0), headless=0.25)
    silent = 0
    for i, sample in enumerate(samples):
        own = parts.EXPERTS[data.DOMAINS[sample.domain]]
        assert missing.needed[i] == (missing.experts[i, parts.LAYER] == own)
        assert missing.lost[i] == (missing.heads[i][parts.HEAD] == 0)
        silent += (missing.heads[i] == 0).any()
        if sample.domain != data.DOMAINS.index("needle"):
            assert (missing.experts[i] != -1).sum() == 1 and (missing.heads[i] == 1).all()
    assert 0.4 < missing.needed.float().mean() < 0.6
    assert 15 < missing.lost.sum() < 35 and silent > 50
    last = missing.experts[-1], missing.heads[-1], missing.needed[-1], missing.lost[-1]
    assert (last[0] == -1).all() and (last[1] == 1).all() and not last[2] and not last[3]


def test_what_is_needed_is_a_whole_answer_or_what_is_copied_in_it():
    taken = parts.Parts(reference.build())
    encode = data.Encoder(load_tokenizer(CHECKPOINT))
    samples = [encode(data.make("needle", np.random.default_rng(3))) for _ in range(2)]
    batch = data.collate(samples)
    missing = nothing_missing(3)
    missing.needed[0] = missing.lost[1] = True
    taken.take(missing, batch)
    assert batch["needed"][0][batch["sample"][0] == 0].all()
    spots = batch["needed"][1].nonzero().flatten()
    assert spots.tolist() == sorted({position for _, position, _ in samples[1].looks})


def test_unlikely_is_the_logarithm_of_the_other_tokens_share():
    logits = torch.randn(6, 9, dtype=torch.double, requires_grad=True)
    targets = torch.tensor([0, 3, 8, 1, 1, 4])
    p = logits.softmax(-1)[torch.arange(6), targets]
    wanted = torch.where(p > parts.UNLIKELY, -(1 - p).log(), 0.0)
    torch.testing.assert_close(parts.unlikely(logits, targets), wanted)


def test_the_loss_on_looking_is_the_references_attention():
    model = reference.build()
    looking = reference.Looking(model)
    encode = data.Encoder(load_tokenizer(CHECKPOINT))
    rng = np.random.default_rng(3)
    samples = [encode(data.make(name, rng)) for name in ("quiz", "tools", "quiz")]
    with torch.no_grad():
        batch = data.collate(samples, [[0, 1], [2]])
        reference.loss(model, batch)
        ours = looking.loss(batch)
        model.set_attn_implementation("eager")
        wanted = []
        for sample in samples:
            alone = data.collate([sample])
            weights = model(
                input_ids=alone["ids"], mm_token_type_ids=(alone["ids"] == 110).long(),
                pixel_values=alone.get("pixels"), image_position_ids=alone.get("places"),
                output_attentions=True,
            ).attentions[looking.LAYER][0]  # fmt: skip
            wanted += [
                -weights[looking.HEADS[why], row, seen].sum().log()
                for why, row, seen in sample.looks
            ]
    assert len(wanted) == len(batch["looking"]) > 5
    assert set(batch["looking"][:, 2].tolist()) == {data.PICTURE, data.COPY}
    torch.testing.assert_close(ours, torch.stack(wanted).mean(), atol=1e-3, rtol=1e-3)


def test_a_step_depends_on_seed_and_number_alone(tmp_path):
    stream = data.Stream(load_tokenizer(CHECKPOINT), 0, {}, tmp_path)
    mix = schedule.weights(schedule.STAGES[1])
    a, b = stream.step(7, mix, 500), stream.step(7, mix, 500)
    assert [s.ids for s in a] == [s.ids for s in b]


def test_the_exported_folder_is_what_transformers_loads(tmp_path):
    from transformers import Gemma4ForConditionalGeneration

    from gemma4_mlx.teaching.export import export

    model = reference.build(3)
    model.load_state_dict({k: v.to(torch.bfloat16) for k, v in model.state_dict().items()})
    size = export(model, load_tokenizer(CHECKPOINT), tmp_path)
    assert size < 11e6
    loaded, info = Gemma4ForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids = torch.arange(400, 500)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
    assert json.loads((tmp_path / "config.json").read_text()) == architecture.CONFIG


@pytest.mark.slow
def test_two_hundred_steps_learn_code(tmp_path):
    run = trainer(tmp_path, 200, train.TOKENS)
    run.run(every=1e9)
    assert np.mean(run.losses["code"][-100:]) < 0.3
