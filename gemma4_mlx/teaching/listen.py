"""The audio tower on its own: what sounds in each soft token, and which digit is said?

Of every soft token whether a tone sounds, whether one has just begun (so that counting tones is
counting tokens) and whether the pitch is rising, falling, above or below the tone before; of a
spoken digit which one, from the mean of the tokens.
"""

from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from . import data, sounds
from .readout import Readout

CLIPS, DIGITS = 6, 4  # of a step
TOKEN, CENTRE = 0.04, 0.015  # seconds of a soft token, and the middle of the first
LOWEST, HIGHEST = 180.0, 2200.0


def labelled(rng) -> tuple[np.ndarray, list]:
    """One to seven tones and glides: float32 (n,) at 16 kHz, and the events in it.

    An event is (start, end) in seconds and where the pitch is against before: 0 the same or the
    first tone, 1 higher or rising, 2 lower or falling. A glide knows after 60 ms. Tones of one
    pitch and of different ones follow each other, which no held-out clip does.
    """
    pitch, events = float(rng.uniform(250, 1300)), []
    seconds = float(rng.uniform(0.02, 0.12))
    clip = [np.zeros(int(seconds * sounds.RATE), "f4")]
    steady = rng.random() < 0.4  # all of one pitch, length and distance, as when counting
    length, gap = rng.uniform(0.08, 0.18), rng.uniform(0.08, 0.16)
    for i in range(int(rng.integers(1, 6 if steady else 8))):
        if seconds > 1.6:
            break
        ratio = float(rng.uniform(1.25, 2.2)) ** float(rng.choice([-1, 1]))
        if not LOWEST < pitch * ratio < HIGHEST:
            ratio = 1 / ratio
        way = 1 if ratio > 1 else 2
        glide = not steady and rng.random() < 0.35
        if not steady:
            length = rng.uniform(0.3, 0.8) if glide else rng.uniform(0.08, 0.35)
            gap = rng.uniform(0, 0.16)
        start = pitch
        if glide:
            pitch *= ratio
            events.append((seconds, seconds + 0.06, 0))
            events.append((seconds + 0.06, seconds + length, way))
        else:
            if steady or not i or rng.random() < 0.3:
                way = 0
            else:
                start = pitch = pitch * ratio
            events.append((seconds, seconds + length, way))
        clip += [sounds.tone(rng, start, pitch, length), np.zeros(int(gap * sounds.RATE), "f4")]
        seconds += length + gap
    return sounds.recorded(rng, np.concatenate(clip)), events


def of_tokens(events: list, n: int) -> np.ndarray:
    """The labels (3, n) of n soft tokens: does a tone sound, has one begun, where is the pitch?"""
    middle = TOKEN * np.arange(n) + CENTRE
    labels = np.zeros((3, n), np.int64)
    before = -1.0  # where the last event ended
    for start, end, way in events:
        inside = (middle >= start) & (middle < end)
        labels[0, inside], labels[2, inside] = 1, way
        if start != before and inside.any():
            labels[1, inside.argmax()] = 1
        before = end
    return labels


class Listen(Readout):
    stage = "listen"
    labels: ClassVar = {"sound": 2, "onset": 2, "way": 3, "digit": 10}

    def __init__(self, model, stream):
        tower = model.model.audio_tower
        super().__init__(tower, tower.config.output_proj_dims)
        self.stream = stream

    def step(self, rng, rate: float) -> tuple[float, float]:
        """Train on some clips: (loss, share of moving tokens whose direction is told)."""
        encode = self.stream.encode
        drawn = [labelled(rng) for _ in range(CLIPS)]
        spoken = [self.stream.sample("speech", rng) for _ in range(DIGITS)]
        mel, mask = data.pad_clips(
            [encode.features(clip) for clip, _ in drawn] + [s.audio[0] for s in spoken]
        )
        out = self.tower(torch.from_numpy(mel), torch.from_numpy(mask))
        hidden, real = out.last_hidden_state, out.attention_mask  # (clips, n, W), (clips, n)
        told = {name: t[:CLIPS][real[:CLIPS]] for name, t in self.read(hidden).items()}
        counts = real[:CLIPS].sum(1).tolist()
        sound, onset, way = torch.from_numpy(
            np.concatenate([of_tokens(e, n) for (_, e), n in zip(drawn, counts, strict=True)], 1)
        )
        weight = real[CLIPS:, :, None].float()
        read = self.read((hidden[CLIPS:] * weight).sum(1) / weight.sum(1))["digit"]
        digit = torch.tensor([encode.spoken_digit(s) for s in spoken])
        loss = (
            F.cross_entropy(told["sound"], sound)
            + 2.0 * F.cross_entropy(told["onset"], onset)
            + 2.0 * F.cross_entropy(told["way"], way)
            + 0.5 * F.cross_entropy(read, digit)
        )
        self.learn(loss, rate)
        moving = way > 0
        right = told["way"][moving].argmax(-1) == way[moving]
        return loss.item(), right.sum().item() / max(len(right), 1)
