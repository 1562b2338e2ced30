"""The vision tower on its own: what covers each soft token, and what is written?

Of every soft token its thing's shape, colour and place, and whether it is the thing's centre (so
that counting things is counting tokens); of a handwritten digit which one, from the mean of the
tokens.
"""

from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from . import data, pictures
from .readout import Readout

SCENES, DIGITS = 7, 7  # pictures of a step
SHAPES, COLOURS = len(pictures.SHAPES) + 1, len(pictures.COLOURS) + 1  # 0: the background


def labelled(rng) -> tuple[np.ndarray, np.ndarray]:
    """A picture of three to seven things, and the labels of its soft tokens.

    uint8 (192, 192, 3) and int (4, 64): shape, colour, place (0..8, -1: background) and whether a
    thing's centre lies there. So many different things stand in no held-out picture.
    """
    grid = pictures.GRID
    labels, items = np.zeros((4, grid, grid), np.int64), []
    labels[2] = -1
    for cell in rng.permutation(9)[: int(rng.integers(3, 8))]:
        s, c = int(rng.integers(SHAPES - 1)), int(rng.integers(COLOURS - 1))
        left, top, r = pictures.at(rng, cell % 3, cell // 3, rng.uniform(0.09, 0.15))
        items.append((pictures.SHAPES[s], list(pictures.COLOURS)[c], left, top, r))
        labels[:3, pictures.covered(left, top, r)] = [[s + 1], [c + 1], [cell]]
        labels[3, int(top * grid), int(left * grid)] = 1
    return pictures.draw(rng, items, int(rng.choice([192, 192, 128]))), labels.reshape(4, -1)


class Look(Readout):
    stage = "look"
    labels: ClassVar = {"shape": SHAPES, "colour": COLOURS, "place": 9, "centre": 2, "digit": 10}

    def __init__(self, model, stream):
        tower = model.model.vision_tower
        super().__init__(tower, tower.config.hidden_size)

    def step(self, rng, rate: float) -> tuple[float, float]:
        """Train on some pictures: (loss, share of covered tokens whose shape is told)."""
        drawn = [labelled(rng) for _ in range(SCENES)]
        written = [data.make("digit", rng) for _ in range(DIGITS)]
        images = [picture for picture, _ in drawn] + [sample.images[0] for sample in written]
        cut = [data.patches(picture) for picture in images]
        hidden = self.tower(
            pixel_values=torch.from_numpy(np.stack([patches for patches, _ in cut])),
            pixel_position_ids=torch.from_numpy(np.stack([places for _, places in cut])),
        ).last_hidden_state.unflatten(0, (len(cut), -1))  # (pictures, 64, H)
        told = {name: t[:SCENES].flatten(0, 1) for name, t in self.read(hidden).items()}
        labels = torch.from_numpy(np.stack([labels for _, labels in drawn], 1)).flatten(1)
        shape, colour, place, centre = labels
        digit = torch.tensor([int(sample.answer[-2]) for sample in written])
        read = self.read(hidden[SCENES:].mean(1))["digit"]
        loss = (
            F.cross_entropy(told["shape"], shape)
            + F.cross_entropy(told["colour"], colour)
            + 0.1 * F.cross_entropy(told["place"], place, ignore_index=-1)
            + 2.0 * F.cross_entropy(told["centre"], centre)
            + F.cross_entropy(read, digit)
        )
        self.learn(loss, rate)
        covered = shape > 0
        right = told["shape"][covered].argmax(-1) == shape[covered]
        return loss.item(), right.float().mean().item()
