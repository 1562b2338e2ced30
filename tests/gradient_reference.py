"""What torch's autograd makes of transformers' Gemma 4: shares of every source, three ways.

``arrays(name)`` runs this file as a script, once, and loads what it wrote (:mod:`made_by`): ``ids``
and ``corrupt`` (n,), of each medium ``start_<i>`` and its soft tokens ``soft_<i>`` and
``corrupt_soft_<i>`` (m, H); and for each of :data:`WAYS`
``<way>_total`` and ``<way>_<source>``: ``positions`` (n,), ``stream`` (L, n), ``heads`` (L, heads),
``mlp`` (L,), ``per_layer`` (L,) and ``experts`` (L, E), the last two where there are any.
"""

import sys

import numpy as np
from made_by import made_by

#: A token of the sequence, and another it is compared with; a span.
TARGET, AGAINST, POSITION = 300, 7, -12
SPAN = (-20, -16)
#: "token": gradient x input of the difference of two logits; "patching": the same less a corrupt
#: prompt's; "function": gradient x input of a span's log-probability, after the soft cap.
WAYS = ("token", "patching", "function")


def arrays(name):
    """The arrays of one configuration."""
    return made_by(__file__, name)


class Seen:
    """Tensors of one forward pass whose gradients are kept: of a layer's parts lists by layer."""

    def __init__(self, model):
        text = getattr(model.model, "language_model", model.model)
        self.text, self.config = text, text.config
        self.inputs, self.stream, self.heads, self.mlp = {}, [], [], []
        self.per_layer, self.experts, self.logits = [], [], None

    def keep(self, tensor):
        if tensor.requires_grad:
            tensor.retain_grad()
        return tensor

    def hooks(self, model):
        def begin(module, args, kwargs):
            ids = kwargs.pop("input_ids", None)
            if ids is not None:
                kwargs["inputs_embeds"] = module.embed_tokens(ids)
                if self.config.hidden_size_per_layer_input:
                    kwargs["per_layer_inputs"] = module.get_per_layer_inputs(ids)
            for name in ("inputs_embeds", "per_layer_inputs"):
                if kwargs.get(name) is not None:
                    kwargs[name] = self.inputs[name] = self.keep(kwargs[name].clone())
            return args, kwargs

        def enter(module, args):
            self.stream.append(self.keep(args[0].clone()))
            return (self.stream[-1], *args[1:])

        def output(kept):
            return lambda module, args, out: kept.append(self.keep(out))

        def chose(module, args, out):
            self.experts.append((module, *(a.detach() for a in args), self.keep(out)))

        yield self.text.register_forward_pre_hook(begin, with_kwargs=True)
        moe = self.config.enable_moe_block
        for layer in self.text.layers:
            yield layer.register_forward_pre_hook(enter)
            yield layer.self_attn.o_proj.register_forward_pre_hook(
                lambda module, args: self.heads.append(self.keep(args[0]))
            )
            norm = "post_feedforward_layernorm_1" if moe else "post_feedforward_layernorm"
            yield getattr(layer, norm).register_forward_hook(output(self.mlp))
            if moe:
                yield layer.experts.register_forward_hook(chose)
            if self.config.hidden_size_per_layer_input:
                yield layer.post_per_layer_input_norm.register_forward_hook(output(self.per_layer))

        def said(module, args, out):
            self.logits = out

        yield model.lm_head.register_forward_hook(said)


def forward(model, ids, media):
    """The pass's tensors, and its logits after the cap (n, V)."""
    import torch
    from reference import Prompts

    seen = Seen(model)
    hooks = list(seen.hooks(model))
    if media:
        media = media | {"mm_token_type_ids": torch.tensor([Prompts.types(ids)])}
    logits = model(input_ids=torch.tensor([ids]), use_cache=False, **media).logits[0]
    for hook in hooks:
        hook.remove()
    return seen, logits


def shares(seen, other=None):
    """Gradient times (value less the other run's)."""
    import torch

    def dots(tensors, others, axes):
        if not tensors:
            return None
        others = others or [torch.zeros(())] * len(tensors)
        pairs = zip(tensors, others)
        return torch.stack(
            [(torch.zeros_like(x) if x.grad is None else x.grad * (x - y)).sum(axes)[0]
             for x, y in pairs]
        )  # fmt: skip

    heads = seen.config.num_attention_heads
    found = {"positions": 0}
    for name, x in seen.inputs.items():
        y = other.inputs[name] if other else 0
        found["positions"] += (x.grad * (x - y)).flatten(2).sum(-1)[0]
    found["stream"] = dots(seen.stream, other and other.stream, -1)
    by_head = []
    for i, x in enumerate(seen.heads):
        y = other.heads[i] if other else 0
        by_head.append((x.grad * (x - y)).reshape(x.shape[1], heads, -1).sum((0, 2)))
    found["heads"] = torch.stack(by_head)
    found["mlp"] = dots(seen.mlp, other and other.mlp, (1, 2))
    found["per_layer"] = dots(seen.per_layer, other and other.per_layer, (1, 2))
    if seen.experts:
        found["experts"] = torch.stack([by_expert(*one, one[-1].grad) for one in seen.experts])
        if other:
            for i, one in enumerate(other.experts):
                found["experts"][i] -= by_expert(*one, seen.experts[i][-1].grad)
    return {name: x.detach().numpy() for name, x in found.items() if x is not None}


def by_expert(module, x, indices, weights, _, gradient):
    """Each expert's weighted output times a gradient, summed over positions: (E,)."""
    import torch

    out = torch.zeros(module.num_experts)
    for expert in range(module.num_experts):
        at, rank = torch.where(indices == expert)
        gate, up = torch.nn.functional.linear(x[at], module.gate_up_proj[expert]).chunk(2, -1)
        y = torch.nn.functional.linear(module.act_fn(gate) * up, module.down_proj[expert])
        out[expert] = (y * weights[at, rank, None] * gradient.reshape(x.shape)[at]).sum()
    return out


def prompts_of(name, model):
    """The clean and the corrupt ids, their media, and where each medium's soft tokens stand."""
    import torch
    from reference import Prompts, patch_positions

    prompts = Prompts(seed=23)
    sees = getattr(model.model, "vision_tower", None) is not None
    hears = getattr(model.model, "audio_tower", None) is not None
    ids, starts, media, others = prompts.text(30), [], {}, {}
    if sees:  # the second is longer than the window
        for soft in (6, 18):
            starts.append(len(ids) + 1)
            ids += [*Prompts.picture(soft), *prompts.text(5)]
        positions = torch.stack([patch_positions(6, 9, 162), patch_positions(9, 18, 162)])
        for some in (media, others):
            pixels = torch.rand(2, 162, 768, generator=prompts.g)
            pixels[0, 54:] = 0
            some.update(pixel_values=pixels, image_position_ids=positions)
    if hears:
        starts.append(len(ids) + 1)
        ids += Prompts.clip(16)
        for some in (media, others):
            mel = torch.randn(1, 61, 128, generator=prompts.g)
            mask = torch.ones(1, 61, dtype=torch.bool)
            some.update(input_features=mel, input_features_mask=mask)
    ids += prompts.text(30)
    corrupt = list(ids)
    for at in (3, 4, 5, 20, len(ids) - 25):
        corrupt[at] = prompts.text(1)[0]
    return ids, corrupt, media, others, starts


def soft_tokens(model, media):
    found = []
    if "pixel_values" in media:
        seen = model.get_image_features(media["pixel_values"], media["image_position_ids"])
        found += list(seen.pooler_output)
    if "input_features" in media:
        heard = model.model.get_audio_features(
            media["input_features"], media["input_features_mask"]
        )
        found.append(heard.pooler_output[heard.attention_mask])
    return found


def main(path, name):
    import torch
    from reference import build

    torch.set_num_threads(1)
    _, model = build(name)
    ids, corrupt, media, others, starts = prompts_of(name, model)
    out, n = {"ids": ids, "corrupt": corrupt}, len(ids)
    with torch.no_grad():
        other, _ = forward(model, corrupt, others)
        softs = soft_tokens(model, media), soft_tokens(model, others)
    for i, (start, soft, their) in enumerate(zip(starts, *softs, strict=True)):
        out |= {f"start_{i}": start, f"soft_{i}": soft.numpy(), f"corrupt_soft_{i}": their.numpy()}

    def score(way, seen, logits):
        if way == "function":
            rows = torch.log_softmax(logits[n + SPAN[0] - 1 : n + SPAN[1] - 1], -1)
            said = torch.tensor(ids[n + SPAN[0] : n + SPAN[1]])
            return rows.gather(1, said[:, None]).sum()
        row = seen.logits[0, n + POSITION - 1]
        return row[TARGET] - row[AGAINST]

    for way in WAYS:
        seen, logits = forward(model, ids, media)
        total = score(way, seen, logits)
        total.backward()
        found = shares(seen, other if way == "patching" else None)
        out |= {f"{way}_{key}": value for key, value in found.items()}
        out[f"{way}_total"] = total.item()
        if way == "patching":
            out["patching_base"] = score(way, other, None).item()
    np.savez_compressed(path, **out)


if __name__ == "__main__":
    main(*sys.argv[1:])
