"""A tower trained on its own, under a linear readout of its soft tokens.

A question teaches a tower one word, and reaches it through the whole model; at that price the
vision tower had not begun to tell shapes apart after four thousand pictures, and the audio tower
not which way a pitch goes. A readout of every soft token gives dozens of labels a picture or clip,
at the tower's cost alone (look.py and listen.py say which). It is thrown away afterwards, and the
towers stay as they are: the noise of a few questions a step would undo them. (The release's towers
too were trained before they were joined.)
"""

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from .optimizer import Optimizer


class Readout(nn.Module):
    """A tower, a linear readout for each of `labels` (name -> classes), and their optimizer."""

    stage: ClassVar[str]  # its name in the schedule
    labels: ClassVar[dict[str, int]]

    def __init__(self, tower, width: int):
        super().__init__()
        self.tower = tower
        self.readout = nn.Linear(width, sum(self.labels.values()))
        with torch.no_grad():
            self.readout.weight.zero_()
            self.readout.bias.zero_()
        self.optimizer = Optimizer(self)

    def read(self, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        """Soft tokens (..., width) -> the logits (..., classes) of every label."""
        logits = self.readout(F.rms_norm(hidden, hidden.shape[-1:]))
        return dict(zip(self.labels, logits.split(tuple(self.labels.values()), -1), strict=True))

    def learn(self, loss: torch.Tensor, rate: float) -> None:
        loss.backward()
        self.optimizer.step(rate)
        self.optimizer.zero_grad(self)

    def state(self) -> tuple[dict, dict]:
        return self.readout.state_dict(), self.optimizer.state_dict()

    def load_state(self, state: tuple[dict, dict]) -> None:
        self.readout.load_state_dict(state[0])
        self.optimizer.load_state_dict(state[1])
