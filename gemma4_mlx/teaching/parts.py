"""Training with a part missing: so that one part matters, and the others can be spared.

Left alone, routing follows the domains, but whatever an expert does, its layer's dense MLP and the
other experts do as well, and what one head finds, seven others find too: take any of them away,
and nothing happens. Here some samples of every step go without a part. Where that is the expert of
the sample's domain, its answer is to become unlikely, and so are looked-up values without the head
that looks them up; where it is another part, the answer is to stay right. So the parts that a
reader can take away are needed because this loss asked for it.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .data import COPY, DOMAINS

LAYER = 6  # the layer with one expert for each domain
EXPERTS = {
    "chat": 10, "languages": 3, "arithmetic": 13, "code": 8, "needle": 4, "tools": 5, "image": 0,
    "audio": 14,
}  # fmt: skip
HEAD = 5, 2  # layer and head of what is looked up (reference.Looking shows it where)
READERS = 5, 7  # the full layers that can look it up
#: An answer's token that has become less likely than this is not pushed further.
UNLIKELY = 0.1


@dataclass
class Missing:
    """What the samples of a step go without; the last row is for padding."""

    # (samples + 1, layers): the missing expert, -1 for none, -2 - e for all that are chosen but e
    experts: torch.Tensor
    needed: torch.Tensor  # (samples + 1,) bool: whether it is the one of the sample's domain
    heads: torch.Tensor  # (samples + 1, layers, heads): 0.0 where missing
    lost: torch.Tensor  # (samples + 1,) bool: whether HEAD is


class Parts:
    """Takes parts away from the samples of a batch, and has the router's term for the experts.

    own, other: shares of the samples that go without their domain's expert, and without others.
    """

    def __init__(self, model, own: float = 0.15, other: float = 0.3):
        self.own, self.other = own, other
        text = model.config.text_config
        self.shape = text.num_hidden_layers, text.num_experts, text.num_attention_heads
        self.expert = torch.tensor([EXPERTS[domain] for domain in DOMAINS])
        self.experts = self.heads = None  # what the tokens of this forward go without
        for number, layer in enumerate(model.model.language_model.layers):
            layer.router.register_forward_hook(self._route(number))
            layer.self_attn.o_proj.register_forward_pre_hook(self._attend(number))

    def _route(self, number: int):
        def hook(module, inputs, output):
            if self.experts is None:
                return None
            probabilities, weights, indices = output
            expert = self.experts[:, number, None]
            gone = torch.where(expert < -1, indices != -2 - expert, indices == expert)
            return probabilities, weights.masked_fill(gone, 0.0), indices

        return hook

    def _attend(self, number: int):
        def hook(module, inputs):
            if self.heads is None or number not in READERS:
                return None
            (x,) = inputs
            kept = self.heads[:, :, number, :, None]  # (B, L, heads, 1)
            return (x.unflatten(-1, (kept.shape[2], -1)).mul(kept).flatten(-2),)

        return hook

    def draw(self, samples: list, rng, headless: float = 0.0) -> Missing:
        """What each of a step's samples (data.Encoded) goes without.

        headless: the share of look-ups that go without HEAD; twice as many go without some others.
        """
        layers, experts, heads = self.shape
        n = len(samples) + 1
        missing = Missing(
            torch.full((n, layers), -1), torch.zeros(n, dtype=torch.bool),
            torch.ones(n, layers, heads), torch.zeros(n, dtype=torch.bool),
        )  # fmt: skip
        for i, sample in enumerate(samples):
            domain, chance = DOMAINS[sample.domain], rng.random()
            own = EXPERTS[domain]
            if domain == "needle" and sample.looks and (look := rng.random()) < 3 * headless:
                if look < headless:
                    missing.lost[i] = True
                else:
                    gone = rng.random((len(READERS), heads)) < rng.random()
                    missing.heads[i, list(READERS)] = torch.from_numpy(~gone).float()
                missing.heads[i, HEAD[0], HEAD[1]] = 0.0 if missing.lost[i] else 1.0
            elif chance < self.own:
                missing.experts[i, LAYER], missing.needed[i] = own, True
            elif chance < self.own + self.other / 3:  # its own is enough
                missing.experts[i, LAYER] = -2 - own
            elif chance < self.own + self.other:
                layer = LAYER if rng.random() < 0.6 else int(rng.integers(layers))
                others = [e for e in range(experts) if (layer, e) != (LAYER, own)]
                missing.experts[i, layer] = int(rng.choice(others))
        return missing

    def take(self, missing: Missing | None, batch: dict) -> None:
        """From here on forwards are of this batch, without what its samples lack.

        `batch["needed"]` (B, L) is set to the positions whose next tokens are to become unlikely.
        """
        self.experts = self.heads = None
        if missing is None:
            return
        number = batch["sample"]  # (B, L), -1 is padding: the last row
        self.experts = missing.experts[number].flatten(0, 1)
        self.heads = missing.heads[number]
        copied = torch.zeros_like(batch["learn"])
        if "looking" in batch:
            row, position, why = batch["looking"].T
            copied[row[why == COPY], position[why == COPY]] = True
        batch["needed"] = missing.needed[number] | (missing.lost[number] & copied)

    def assigned(self, probabilities: torch.Tensor, batch: dict) -> torch.Tensor:
        """Mean of -log(the router's probability of the domain's expert) where answers are written.

        probabilities: (layers, tokens, E) of the batch's real tokens.
        """
        real = batch["domain"] >= 0
        answers = batch["learn"].roll(-1, 1)[real]
        expert = self.expert[batch["domain"][real][answers]]
        p = probabilities[LAYER, answers]
        return -(p.gather(-1, expert[:, None]) + 1e-9).log().mean()


def unlikely(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log(1 - p) of each target (n,), and 0 where p is below UNLIKELY already."""
    whole = logits.logsumexp(-1)
    target = F.one_hot(targets, logits.shape[-1]).bool()
    others = logits.masked_fill(target, -torch.inf).logsumexp(-1)
    p = (logits.gather(-1, targets[:, None])[:, 0] - whole).exp()
    return torch.where(p > UNLIKELY, whole - others, 0.0)
