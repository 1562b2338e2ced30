"""The vision tower on its own: which shape and which colour covers each soft token?

A question about a picture teaches the tower one word and reaches it through the whole model; at
that price it had not begun to tell shapes apart after four thousand pictures. A linear readout of
every soft token gives sixty-four labels a picture, at the tower's cost alone; of a handwritten
digit the mean of the tokens is read. The readout is thrown away afterwards, and the tower stays as
it is: the noise of a few questions a step would undo it. (The release's towers too were trained
before they were joined.)
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from . import data, pictures
from .optimizer import Optimizer

SCENES, DIGITS = 9, 3  # pictures of a step
SHAPES, COLOURS = len(pictures.SHAPES) + 1, len(pictures.COLOURS) + 1  # 0: the background
GRID = 8  # soft tokens across


def labelled(rng) -> tuple[np.ndarray, np.ndarray]:
    """A picture of three to seven things, and the (shape, colour) covering each of its soft tokens.

    uint8 (192, 192, 3) and int (2, 64). So many different things stand in no held-out picture.
    """
    x, y = np.meshgrid(*[(np.arange(GRID) + 0.5) / GRID] * 2)
    labels, items = np.zeros((2, GRID, GRID), np.int64), []
    for cell in rng.permutation(9)[: int(rng.integers(3, 8))]:
        s, c = int(rng.integers(SHAPES - 1)), int(rng.integers(COLOURS - 1))
        left, top, r = pictures.at(rng, cell % 3, cell // 3, rng.uniform(0.09, 0.15))
        items.append((pictures.SHAPES[s], list(pictures.COLOURS)[c], left, top, r))
        covered = np.maximum(abs(x - left), abs(y - top)) < r * 1.15
        labels[:, covered] = [[s + 1], [c + 1]]
    return pictures.draw(rng, items, int(rng.choice([192, 192, 128]))), labels.reshape(2, -1)


class Look(nn.Module):
    """A model's vision tower, the readout, and their optimizer."""

    def __init__(self, model):
        super().__init__()
        self.tower = model.model.vision_tower
        self.readout = nn.Linear(self.tower.config.hidden_size, SHAPES + COLOURS + 10)
        with torch.no_grad():
            self.readout.weight.zero_()
            self.readout.bias.zero_()
        self.optimizer = Optimizer(self)

    def step(self, rng, rate: float) -> tuple[float, float]:
        """Train on some pictures: (loss, share of covered tokens whose shape is told)."""
        drawn = [labelled(rng) for _ in range(SCENES)]
        written = [data.make("digit", rng) for _ in range(DIGITS)]
        images = [picture for picture, _ in drawn] + [sample.images[0] for sample in written]
        cut = [data.patches(picture) for picture in images]
        hidden = self.tower(
            pixel_values=torch.from_numpy(np.stack([patches for patches, _ in cut])),
            pixel_position_ids=torch.from_numpy(np.stack([places for _, places in cut])),
        ).last_hidden_state  # (pictures * 64, H)
        logits = self.readout(F.rms_norm(hidden, hidden.shape[-1:])).unflatten(0, (len(cut), -1))
        told, colours = (
            logits[:SCENES, :, : SHAPES + COLOURS].flatten(0, 1).split((SHAPES, COLOURS), dim=-1)
        )
        shape, colour = torch.from_numpy(np.stack([labels for _, labels in drawn], 1)).flatten(1)
        digit = torch.tensor([int(sample.answer[-2]) for sample in written])
        loss = F.cross_entropy(told, shape) + F.cross_entropy(colours, colour)
        read = logits[SCENES:, :, SHAPES + COLOURS :].mean(1)
        loss = loss + 0.5 * F.cross_entropy(read, digit)
        loss.backward()
        self.optimizer.step(rate)
        self.optimizer.zero_grad(self)
        covered = shape > 0
        right = told[covered].argmax(-1) == shape[covered]
        return loss.item(), right.float().mean().item()
