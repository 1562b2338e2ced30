"""What is inside the teaching model: specialised experts, needle heads, and ablations."""

import mlx.core as mx
import numpy as np

import gemma4_mlx as g4

from . import data, skills
from .data import DOMAINS

MAKERS = {
    "chat": ["chat"], "languages": ["count", "sentence"], "arithmetic": ["sums", "two_step"],
    "code": ["code"], "needle": ["needle"], "tools": ["tools"], "image": ["scene", "digit"],
    "audio": ["tones", "speech"],
}  # fmt: skip


def samples_of(domain: str, n: int, seed: int = 5) -> list:
    """Held-out samples of a domain."""
    rng = np.random.default_rng((seed, DOMAINS.index(domain)))
    makers = MAKERS[domain]
    return [data.make(makers[i % len(makers)], rng, "test") for i in range(n)]


def routing(runner, samples: dict) -> tuple[np.ndarray, np.ndarray]:
    """Counts (layers, domains, experts): of tokens' first experts, and of all their experts."""
    text = runner.model.config.text
    shape = (text.num_hidden_layers, len(DOMAINS), text.num_experts)
    first, chosen = np.zeros(shape), np.zeros(shape)
    seen = {}

    def observe(name, layer, value, geometry):
        if name in ("expert_indices", "expert_weights"):
            seen[name, layer] = value

    for d, domain in enumerate(DOMAINS):
        for sample in samples[domain]:
            seen.clear()
            with runner.model.observe(observe):
                mx.eval(runner.logits(sample)[0])
            for layer in range(shape[0]):
                experts = np.array(seen["expert_indices", layer])[0]  # (n, k)
                weights = np.array(seen["expert_weights", layer].astype(mx.float32))[0]
                best = np.take_along_axis(experts, weights.argmax(-1)[:, None], -1)[:, 0]
                np.add.at(first[layer, d], best, 1)
                np.add.at(chosen[layer, d], experts.ravel(), 1)
    return first, chosen


def information(counts: np.ndarray) -> float:
    """Mutual information in bits of a table (domains, experts), every domain weighing the same."""
    joint = counts / counts.sum(1, keepdims=True) / len(counts)
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log2(joint[seen] / independent[seen])).sum())


def needle_heads(runner, samples: list) -> dict[tuple[int, int], tuple[float, float]]:
    """(layer, head) -> (mean mass on the needle, mean largest mass on another note's value).

    The row looked at is the answer's position right before the value; the needle is the note's
    key and value.
    """
    model, text = runner.model, runner.model.config.text
    full = [i for i in range(text.num_hidden_layers) if text.is_full(i)]
    found = {}
    seen = {}

    def observe(name, layer, value, geometry):
        if name in ("queries", "keys") and layer in full:
            seen[name, layer] = value

    for sample in samples:
        ids, _ = runner.inputs(sample)
        answer = runner.answer_ids(sample)
        value = model.tokenizer.encode(" " + sample.check["value"], allow_special=True)
        stop = next(i for i in range(len(answer)) if answer[i : i + len(value)] == value)
        row = ids + answer[:stop]  # the last token stands right before the value
        with model.observe(observe):
            mx.eval(model.hidden(mx.array([row])))
        key = model.tokenizer.encode(" " + sample.check["key"], allow_special=True)
        # Where each note's key starts: after "Note:" at a line's start or inside a line.
        starts = [model.tokenizer.encode(text, allow_special=True) for text in ("Note:", " Note:")]
        spots = sorted(
            {i + len(s) for s in starts for i in range(len(ids)) if ids[i : i + len(s)] == s}
        )
        mine = [i for i in spots if ids[i : i + len(key)] == key]
        spans = {i: (i, i + len(key) + len(value)) for i in spots}
        for layer in full:
            q = seen["queries", layer].astype(mx.float32)[0, :, -1]  # (heads, D)
            k = seen["keys", layer].astype(mx.float32)[0]  # (kv heads, n, D)
            k = mx.repeat(k, q.shape[0] // k.shape[0], axis=0)
            p = np.array(mx.softmax((k @ q[:, :, None])[..., 0], axis=-1))
            for head in range(len(p)):
                mass = {i: p[head, a:b].sum() for i, (a, b) in spans.items()}
                on = sum(mass[i] for i in mine)
                off = max((m for i, m in mass.items() if i not in mine), default=0.0)
                found.setdefault((layer, head), []).append((on, off))
    return {head: tuple(np.mean(values, axis=0)) for head, values in found.items()}


def ablations(runner, samples: dict, chosen: np.ndarray) -> list[tuple]:
    """For each domain its most specialised expert, and what losing it does to every domain.

    The most specialised: the largest share of the domain's routes minus the largest share it has
    in any other domain. Returns (domain, layer, expert, rise of its loss, mean rise elsewhere).
    """
    load = chosen / chosen.sum(-1, keepdims=True)  # (layers, domains, experts)
    before = {d: [runner.loss(s) for s in samples[d]] for d in DOMAINS}
    rows = []
    for i, domain in enumerate(DOMAINS):
        others = np.delete(load, i, axis=1).max(1)
        layer, expert = np.unravel_index((load[:, i] - others).argmax(), others.shape)
        rises = []
        with runner.model.intervene(g4.Ablate(layer=int(layer), experts=(int(expert),))):
            for d in DOMAINS:
                after = [runner.loss(s) for s in samples[d]]
                rises.append(float(np.mean(after) - np.mean(before[d])))
        rest = float(np.mean(np.delete(rises, i)))
        rows.append((domain, int(layer), int(expert), load[layer, i, expert], rises[i], rest))
    return rows


def report(runner, samples: dict, first: np.ndarray, chosen: np.ndarray) -> None:
    """Print all of it; the tables are those of `routing`."""
    bits = [information(table) for table in first]
    dead = [int((layer.sum(0) == 0).sum()) for layer in chosen]
    print("Experts: mutual information of first expert and domain, per layer (bits, at most 3; "
          "routing was encouraged to follow the domains in training)")  # fmt: skip
    print("  " + " ".join(f"{b:.2f}" for b in bits) + f"; best {max(bits):.2f} (bar 0.50)")
    print(f"  experts without a token, per layer: {dead} (bar 0)")
    share = chosen.sum(1) / chosen.sum((1, 2))[:, None]
    print(f"  largest load of an expert, per layer: {[round(float(x.max()), 2) for x in share]}")

    skill = next(s for s in skills.SKILLS if s.name == "needle, 1K")
    heads = needle_heads(runner, skills.draw(skill, samples=20))
    print("Needle at about 1,000 tokens, 5 notes: mass from the position before the value")
    for (layer, head), (on, off) in sorted(heads.items(), key=lambda x: -x[1][0])[:4]:
        print(f"  layer {layer} head {head}: {on:.2f} on the needle (bar 0.50), {off:.3f} on the "
              "strongest other note")  # fmt: skip
    print("Ablating each domain's most specialised expert: rise of the loss there and elsewhere")
    for domain, layer, expert, load, own, rest in ablations(runner, samples, chosen):
        ratio = f"{own / rest:.1f} times" if rest > 0 else "elsewhere no rise"
        print(f"  {domain:10s} layer {layer} expert {expert:2d} ({load:.0%} of its routes): "
              f"{own:+.3f}, elsewhere {rest:+.3f}, {ratio}")  # fmt: skip
