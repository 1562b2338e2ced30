"""The teaching model in transformers' own class: built, initialised, and its training loss."""

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from . import architecture
from .parts import unlikely


def build(seed: int = 0):
    """`Gemma4ForConditionalGeneration` in float32 with weights that start well.

    Attention has scale 1, so the norms of queries and keys start at head_dim ** -0.25; linears at
    1 / sqrt(fan in); the norms after attention, MLP and experts at 0.35, so that the stream
    starts out as the embedding; the router wide (0.7), so that experts differ from the start.
    """
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    document = copy.deepcopy(architecture.CONFIG)
    for part in (document, *(document[f"{p}_config"] for p in ("text", "vision", "audio"))):
        part["dtype"] = "float32"
    config = Gemma4Config(**document)
    config.text_config._attn_implementation = "sdpa"
    config.vision_config._attn_implementation = "sdpa"
    config.audio_config._attn_implementation = "eager"  # its tower has no other
    torch.manual_seed(seed)
    model = Gemma4ForConditionalGeneration(config).float()
    # Its convolutions' norms want the channels last: a third less time on a CPU.
    model.model.audio_tower.to(memory_format=torch.channels_last)
    for module in model.modules():
        if hasattr(getattr(module, "config", None), "_experts_implementation"):
            module.config._experts_implementation = "grouped_mm"
    with torch.no_grad():
        for name, value in model.named_parameters():
            _initialise(name, value)
        for name, value in model.named_buffers():
            if name.endswith("layer_scalar"):
                value.fill_(architecture.LAYER_SCALAR)
            for bound, number in architecture.CLIP.items():
                if name.endswith(bound):
                    value.fill_(number)
    return model


def _initialise(name: str, value: torch.Tensor) -> None:
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        value.fill_(value.shape[0] ** -0.25)
    elif name.endswith("norm.weight") or "layernorm" in name or "norm_" in name:
        after = ("post_attention", "post_feedforward", "post_per_layer", "post_layer", "post_attn")
        value.fill_(0.35 if any(part in name for part in after) else 1.0)
    elif "router.proj" in name:
        value.normal_(0, 0.7)
    elif "position_embedding_table" in name:
        value.normal_(0, 0.3)
    elif "embed_tokens_per_layer" in name:
        value.normal_(0, 0.0625)
    elif "embed_tokens" in name:
        value.normal_(0, 0.05)
    elif value.dim() >= 2:
        fan_in = math.prod(value.shape[1:]) if "conv" in name else value.shape[-1]
        value.normal_(0, fan_in**-0.5)


class Routing:
    """Collects every layer's router probabilities, and the two losses made of them."""

    DEAD = 0.003  # share of the routes

    def __init__(self, model):
        self.layers = model.model.language_model.layers
        self.probabilities = []  # one (B * L, E) per layer, of the last forward
        self.load = None  # (layers, E): share of tokens per expert, a running mean
        for layer in self.layers:
            layer.router.register_forward_hook(self._keep)

    def _keep(self, module, inputs, output):
        self.probabilities.append(output[0])

    def collected(self, domain: torch.Tensor) -> torch.Tensor:
        """Probabilities (layers, tokens, E) of the last forward's real tokens; then forgotten."""
        p = torch.stack([each[domain.flatten() >= 0] for each in self.probabilities])
        self.probabilities = []
        return p

    def losses(self, p: torch.Tensor, domain: torch.Tensor):
        """(balancing, specialisation) from `collected` and the tokens' domains (B, L), -1 for
        padding.

        Balancing is E * sum(load * P) with the load as a running mean over batches: inside one
        batch an expert may well belong to one domain. Specialisation is the mean entropy of each
        domain's mean router distribution: small when a domain keeps to few experts.
        """
        experts, domain = p.shape[-1], domain.flatten()[domain.flatten() >= 0]
        mean = p.mean(1)
        with torch.no_grad():
            top = p.topk(2, dim=-1).indices
            hit = F.one_hot(top, experts).sum(-2).float()
            load = hit.mean(1) / 2
            self.load = load if self.load is None else 0.95 * self.load + 0.05 * load
        balance = experts * (self.load * mean).sum(-1).mean()
        entropies = []
        for d in domain.unique():
            q = p[:, domain == d].mean(1)
            entropies.append(-(q * (q + 1e-9).log()).sum(-1).mean())
        return balance, torch.stack(entropies).mean()

    @torch.no_grad()
    def revive(self, p: torch.Tensor) -> list[tuple[int, int]]:
        """Give experts without tokens some to learn from; (layer, expert) of each.

        An expert that is never chosen gets no gradient, and balancing alone does not bring it
        back. It becomes a copy of an expert b that often comes second to an expert a, with a
        router row halfway between theirs: from then on it often takes b's place behind a, and
        the layer's output changes little.

        p: probabilities (layers, tokens, E).
        """
        revived = []
        for number, (layer, top) in enumerate(zip(self.layers, p.topk(2, dim=-1).indices)):
            experts = p.shape[-1]
            share = top.flatten().bincount(minlength=experts) / top.numel()
            pairs = (top[:, 0] * experts + top[:, 1]).bincount(minlength=experts**2)
            for dead in torch.nonzero(share < self.DEAD).flatten().tolist():
                a, b = divmod(pairs.argmax().item(), experts)
                pairs[a * experts + b] = 0
                rows = layer.router.proj.weight
                rows[dead] = (rows[a] + rows[b]) / 2
                for values in (layer.experts.gate_up_proj, layer.experts.down_proj,
                               layer.router.per_expert_scale):  # fmt: skip
                    values[dead] = values[b]
                revived.append((number, dead))
        return revived


class Looking:
    """A loss on where two heads look: at the thing in the picture that an answer is about, and at
    the text that a tool call copies.

    Left alone, the model finds what stands at a place, but not where a thing stands: after ten
    thousand such questions it still answered by chance. Shown where to look it learns it. So with
    tool calls: five in six were right before it was shown where names and values stand.
    """

    LAYER, HEADS = 5, [0, 2]  # of data.PICTURE and data.COPY

    def __init__(self, model):
        from transformers import AttentionInterface
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        self.seen = None  # queries (B, 2, L, D) and keys (B, 2, L, D) of the heads

        def attend(module, queries, keys, values, mask, **options):
            if module.layer_idx == self.LAYER:
                groups = queries.shape[1] // keys.shape[1]
                theirs = [head // groups for head in self.HEADS]
                self.seen = queries[:, self.HEADS], keys[:, theirs]
            return sdpa_attention_forward(module, queries, keys, values, mask, **options)

        AttentionInterface.register("watched", attend)
        model.config.text_config._attn_implementation = "watched"

    def loss(self, batch: dict) -> torch.Tensor:
        """Mean of -log(mass on what is to be looked at) over the looks of a batch that has some."""
        queries, keys = self.seen
        row, position, why = batch["looking"].T
        scores = (keys[row, why] @ queries[row, why, position][:, :, None])[..., 0]  # scale 1
        if batch["full"] is None:
            sees = torch.arange(scores.shape[1]) <= position[:, None]
        else:
            sees = batch["full"][row, 0, position]
        scores = scores.masked_fill(~sees, -torch.inf)
        on = scores.masked_fill(~batch["looked_at"], -torch.inf)
        return (scores.logsumexp(-1) - on.logsumexp(-1)).mean()


def logits_at(model, batch: dict, where: torch.Tensor) -> torch.Tensor:
    """Logits (n, vocab) at the positions `where` (B, L) of a batch of data.collate."""
    hidden = model.model(
        input_ids=batch["ids"],
        attention_mask={"full_attention": batch["full"], "sliding_attention": batch["sliding"]},
        position_ids=batch["positions"],
        pixel_values=batch.get("pixels"),
        image_position_ids=batch.get("places"),
        input_features=batch.get("mel"),
        input_features_mask=batch.get("mel_mask"),
        use_cache=False,
    ).last_hidden_state
    cap = architecture.TEXT["final_logit_softcapping"]
    return torch.tanh(model.lm_head(hidden[where]) / cap) * cap


def learned(batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the learned tokens are predicted, (B, L) bool, and those n tokens."""
    where = batch["learn"].roll(-1, 1)
    where[:, -1] = False
    return where, batch["ids"].roll(-1, 1)[where]


def loss(model, batch: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy over the n learned tokens: (its sum, (n,) each, (n,) each one's domain).

    Tokens of samples that go without a part they need (`batch["needed"]`) are to become unlikely
    instead; they are left out of what is told of each token.
    """
    where, targets = learned(batch)
    logits = logits_at(model, batch, where)
    each = F.cross_entropy(logits, targets, reduction="none")
    domain = batch["domain"][where]
    if "needed" not in batch:
        return each.sum(), each.detach(), domain
    lost = batch["needed"][where]
    total = each[~lost].sum() + unlikely(logits[lost], targets[lost]).sum()
    return total, each.detach()[~lost], domain[~lost]


class FastNorm(torch.autograd.Function):
    """RMSNorm with a short backward; the reference's takes a dozen small operations."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        scale = torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
                            .div_(x.shape[-1]).add_(eps))  # fmt: skip
        y = x * scale
        ctx.save_for_backward(y, scale, weight)
        return y if weight is None else y * weight

    @staticmethod
    def backward(ctx, grad):
        y, scale, weight = ctx.saved_tensors
        d_weight = None
        product = grad * y
        if weight is None:
            dot = product.mean(-1, keepdim=True)
        else:
            d_weight = product.flatten(0, -2).sum(0)
            dot = (product @ weight / y.shape[-1]).unsqueeze(-1)
            grad = grad * weight
        return torch.addcmul(grad, y, dot, value=-1).mul_(scale), d_weight, None


def use_fast_norms(model) -> None:
    """Swap the forward of every RMSNorm for FastNorm: the same numbers, sooner."""
    for module in model.modules():
        if type(module).__name__ == "Gemma4RMSNorm":
            weight = module.weight if module.with_scale else None
            module.forward = lambda x, w=weight, e=module.eps: FastNorm.apply(x, w, e)


def parameters(model) -> int:
    return sum(p.numel() for p in nn.Module.parameters(model))
