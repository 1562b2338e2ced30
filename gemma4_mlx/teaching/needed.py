"""Which parts of the teaching model its answers need: experts of a domain, heads of a look-up.

An answer is *changed* where greedy decoding gives other tokens. The model decodes an answer's own
tokens again exactly if each is the likeliest after those before it, so one forward pass tells.
"""

from collections.abc import Iterator

import mlx.core as mx
import numpy as np

import gemma4_mlx as g4

from . import skills
from .data import DOMAINS

#: Samples of each domain whose answers are compared, and those that each expert is tried on to find
#: the one that is needed most: a dropped expert is a pass over all of them.
ASKED, TRIED = 16, 4


class Answers:
    """The greedy answers of an unchanged model, to tell which of them a change changes."""

    def __init__(self, runner, samples: list):
        self.runner, self.samples = runner, samples
        self.tokens = [runner.greedy(sample) for sample in samples]
        self.losses = [runner.loss(sample) for sample in samples]

    def changed(self) -> float:
        """The share of answers that are others now."""
        both = zip(self.samples, self.tokens, strict=True)
        return float(np.mean([not self.runner.gives(sample, tokens) for sample, tokens in both]))

    def rise(self) -> float:
        """By how much the right answers' mean loss is higher now, in nats per token."""
        now = [self.runner.loss(sample) for sample in self.samples]
        return float(np.mean(now) - np.mean(self.losses))


def drop(layer: int, expert: int) -> g4.Ablate:
    """What the switch *drop* of the Routing widget does: the expert's output counts as zero."""
    return g4.Ablate(layer=layer, experts=(expert,), mode="contribution")


def best_expert(runner, samples: list, load: np.ndarray) -> tuple[int, int]:
    """The (layer, expert) without which a domain's loss rises most.

    Of each layer the two experts are tried that its tokens use most; load (layers, E).
    """
    tried = {}
    for layer in range(len(load)):
        for expert in np.argsort(-load[layer])[:2].tolist():
            with runner.model.intervene(drop(layer, expert)):
                tried[layer, expert] = np.mean([runner.loss(sample) for sample in samples])
    return max(tried, key=tried.get)


def control(load: np.ndarray, layer: int, expert: int) -> int:
    """Another expert of the layer: one of the three whose load is nearest, as in the widget."""
    others = [e for e in range(load.shape[1]) if e != expert and load[layer, e] > 0]
    near = sorted(others, key=lambda e: abs(load[layer, e] - load[layer, expert]))[:3]
    return int(np.random.default_rng(layer * 1009 + expert).choice(near))


def experts(runner, samples: dict, chosen: np.ndarray) -> Iterator[dict]:
    """For each domain its best expert, and the share of answers that change without it.

    chosen: tokens of each expert (layers, domains, experts). Of the control, an expert of the same
    layer and about the same load, it says how many of the domain's answers change without that.
    """
    load = chosen / chosen.sum(-1, keepdims=True)
    before = {domain: Answers(runner, samples[domain][:ASKED]) for domain in DOMAINS}
    for i, domain in enumerate(DOMAINS):
        layer, expert = best_expert(runner, samples[domain][:TRIED], load[:, i])
        other = control(load[:, i], layer, expert)
        with runner.model.intervene(drop(layer, expert)):
            changed = {d: answers.changed() for d, answers in before.items()}
            rise = before[domain].rise()
        with runner.model.intervene(drop(layer, other)):
            spared = before[domain].changed()
        own = changed.pop(domain)
        yield {"domain": domain, "layer": layer, "expert": expert, "changed": own, "rise": rise,
               "elsewhere": max(changed.values()), "control": other, "spared": spared}  # fmt: skip


def silence(layer: int, heads) -> g4.ScaleHeads:
    return g4.ScaleHeads(layer=layer, heads=tuple(heads), factor=0.0)


def needle_head(runner, samples: list) -> tuple[int, tuple[int, ...]]:
    """(layer, heads): the head, or the pair that shares its keys, without which look-ups fail
    most; a single head wins a tie."""
    text = runner.model.config.text
    tried = {}
    for layer in (i for i in range(text.num_hidden_layers) if text.is_full(i)):
        group = text.num_attention_heads // text.kv_heads_of(layer)
        pairs = [tuple(range(i, i + group)) for i in range(0, text.num_attention_heads, group)]
        for heads in [*((h,) for h in range(text.num_attention_heads)), *pairs]:
            with runner.model.intervene(silence(layer, heads)):
                tried[layer, heads] = np.mean([runner.exact(sample) for sample in samples])
    return min(tried, key=lambda part: (tried[part], len(part[1])))


def carried(runner, samples: list, layer: int, heads) -> float:
    """How often a head's output from another run carries that run's value.

    The other run is the same text with another value of one token in the note that is asked for,
    and the output is put in at the position before the value.
    """
    model, values = runner.model, [" velvet", " amber", " Paris", " golden", " quiet", " Tokyo"]
    encode = lambda text: model.tokenizer.encode(text, allow_special=True)  # noqa: E731
    single = [encode(value)[0] for value in values if len(encode(value)) == 1]
    right = []
    for number, sample in enumerate(samples):
        value = encode(" " + sample.check["value"])
        key = encode(" " + sample.check["key"])
        ids, answer = runner.inputs(sample)[0], runner.answer_ids(sample)
        note = key + value
        if len(value) != 1:
            continue
        (where,) = [i for i in range(len(ids)) if ids[i : i + len(note)] == note][:1] or [None]
        stop = next(i for i in range(len(answer)) if answer[i : i + 1] == value)
        other = next(v for v in np.roll(single, number) if v != value[0])
        rows = ids + answer[:stop], list(ids) + answer[:stop]
        rows[1][where + len(key)] = int(other)
        seen = {}

        def keep(name, at, heads_out, geometry, seen=seen):
            if name == "head_outputs" and at == layer:
                seen["there"] = heads_out[:, :, -1:]

        def put(name, at, heads_out, geometry, seen=seen):
            if name == "head_outputs" and at == layer:
                chosen = mx.array([h in heads for h in range(heads_out.shape[1])])
                last = mx.where(chosen[None, :, None, None], seen["there"], heads_out[:, :, -1:])
                return mx.concatenate([heads_out[:, :, :-1], last], axis=2)

        with model.observe(keep):
            mx.eval(model.hidden(mx.array([rows[1]])), seen["there"])
        with model.observe(put):
            logits = model.head(model.hidden(mx.array([rows[0]]))[:, -1:])
        right.append(logits[0, -1].argmax().item() == other)
    return float(np.mean(right))


def report(runner, samples: dict, chosen: np.ndarray, look_ups: int = 40) -> None:
    """Print all of it."""
    print("Dropping each domain's best expert, as the Routing widget does: answers changed (bar "
          "0.50, or the loss 0.5 higher), of other domains at most, and without another expert of "
          "the same load (bars 0.05)")  # fmt: skip
    for row in experts(runner, samples, chosen):
        print("  {domain:10s} layer {layer} expert {expert:2d}: {changed:.2f}, loss {rise:+.2f}; "
              "elsewhere {elsewhere:.2f}; without expert {control} {spared:.2f}"
              .format(**row), flush=True)  # fmt: skip
    skill = next(s for s in skills.SKILLS if s.name == "needle, 1K")
    asked = skills.draw(skill, samples=look_ups)
    layer, heads = needle_head(runner, asked[:6])
    shares = [np.mean([runner.exact(s) for s in asked])]
    rng = np.random.default_rng(0)
    text = runner.model.config.text
    others = [(i, (h,)) for i in range(text.num_hidden_layers) if text.is_full(i)
              for h in range(text.num_attention_heads) if i != layer or h not in heads]  # fmt: skip
    random = others[int(rng.integers(len(others)))]
    for part in ((layer, heads), random):
        with runner.model.intervene(silence(*part)):
            shares.append(np.mean([runner.exact(s) for s in asked]))
    print(f"Needle at about 1,000 tokens: {shares[0]:.2f} right (bar 0.95); without layer {layer} "
          f"head {heads}: {shares[1]:.2f} (bar 0.10); without layer {random[0]} head {random[1]}: "
          f"{shares[2]:.2f}")  # fmt: skip
    share = carried(runner, asked, layer, heads)
    print(f"  its output from a run with another value carries that value: {share:.2f} (bar 0.80)")
