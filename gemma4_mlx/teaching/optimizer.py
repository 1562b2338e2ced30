"""Muon for matrices (every expert slice its own), AdamW for the rest."""

import torch


def orthogonalise(m: torch.Tensor, steps: int = 4) -> torch.Tensor:
    """Newton-Schulz towards the nearest orthogonal matrix, for a batch (N, rows, columns)."""
    tall = m.shape[-2] > m.shape[-1]
    x = m.mT if tall else m
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, b, x, beta=3.4445)
    return x.mT if tall else x


class Optimizer:
    """Both at once. `lr` of step() multiplies the base rates below."""

    MUON, ADAM, ROUTER = 0.02, 3e-3, 4.5e-3
    TABLES = ("embed_tokens", "readout")  # matrices whose rows belong to one word each
    # Nearly every matrix stands between norms, so that its size changes nothing but how far a
    # step moves it; without decay the matrices grow until the clipped linears saturate.
    DECAY = 0.2

    def __init__(self, model):
        self.matrices, self.others, self.routers = {}, [], []
        self.momentum = {}
        for name, p in model.named_parameters():
            if "router.proj" in name:
                self.routers.append(p)
            elif "experts" in name or (p.dim() == 2 and not any(t in name for t in self.TABLES)):
                self.matrices.setdefault(self._slices(name, p).shape[1:], []).append((name, p))
                self.momentum[name] = torch.zeros_like(p)
            else:
                self.others.append(p)
        self.adam = torch.optim.AdamW(
            [
                {"params": self.others, "base": self.ADAM},
                {"params": self.routers, "base": self.ROUTER},
            ],
            betas=(0.9, 0.98), weight_decay=0.0, foreach=True,
        )  # fmt: skip

    @staticmethod
    def _slices(name, tensor) -> torch.Tensor:
        """A view (N, rows, columns); gate and up of an expert are matrices of their own."""
        if "gate_up_proj" in name:
            return tensor.view(-1, tensor.shape[1] // 2, tensor.shape[2])
        return tensor if tensor.dim() == 3 else tensor[None]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        torch.nn.utils.clip_grad_norm_([p for p in self.others if p.grad is not None], 1.0)
        for group in self.adam.param_groups:
            group["lr"] = group["base"] * lr
        self.adam.step()
        for shape, members in self.matrices.items():
            members = [(n, p) for n, p in members if p.grad is not None]
            if not members:
                continue
            looks = []
            for name, p in members:
                m = self.momentum[name].lerp_(p.grad, 0.05)
                looks.append(self._slices(name, torch.lerp(p.grad, m, 0.95)))
            update = orthogonalise(torch.cat(looks))
            scale = self.MUON * lr * max(1.0, shape[0] / shape[1]) ** 0.5
            for (name, p), u in zip(members, update.split([len(x) for x in looks]), strict=True):
                p.mul_(1 - self.MUON * lr * self.DECAY)
                self._slices(name, p).add_(u, alpha=-scale)

    def zero_grad(self, model) -> None:
        for p in model.parameters():
            p.grad = None

    def state_dict(self) -> dict:
        return {"adam": self.adam.state_dict(), "momentum": self.momentum}

    def load_state_dict(self, state: dict) -> None:
        self.adam.load_state_dict(state["adam"])
        self.momentum = state["momentum"]
