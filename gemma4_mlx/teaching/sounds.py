"""Tones and spoken digits, with questions about them.

The speech comes from espeak-ng (a program, not shipped): English voices and their variants at
several speeds and pitches; four variants are held out whole, for the evaluation.
"""

import io
import subprocess
import wave
from functools import lru_cache

import numpy as np

from .render import Sample, conversation

RATE = 16000
SOUND = "<|audio|>"  # expanded to the soft tokens by data.py
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TRAIN_VOICES = [
    f"{accent}{variant}"
    for accent in ("en-us", "en-gb", "en-gb-scotland")
    for variant in ("", "+m1", "+m2", "+m3", "+m4", "+m6", "+f1", "+f2", "+f5")
]
TEST_VOICES = ["en-us+m5", "en-us+f3", "en-gb+m7", "en-gb+f4"]


@lru_cache(maxsize=4096)
def say(text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """Speak `text`: float32 samples at 16 kHz, silence trimmed."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(data)) as sound:
        rate = sound.getframerate()
        samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16) / 32768
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    samples = samples[loud[0] : loud[-1] + 1]
    n = int(len(samples) * RATE / rate)
    return np.interp(np.arange(n) * rate / RATE, np.arange(len(samples)), samples).astype("f4")


def tone(rng, start, end, seconds) -> np.ndarray:
    """A tone that glides from one frequency to another, faded at both ends."""
    t = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * (start * t + (end - start) * t**2 / (2 * seconds))
    fade = np.minimum(1, np.minimum(np.arange(len(t)), np.arange(len(t))[::-1]) / 160)
    wave_ = np.sin(phase) + rng.uniform(0, 0.4) * np.sin(2 * phase)
    return (0.3 * fade * wave_).astype("f4")


def recorded(rng, clip) -> np.ndarray:
    """Another loudness, a little noise."""
    clip = clip * rng.uniform(0.5, 1.4)
    return (clip + rng.normal(0, rng.choice([0, 0.001, 0.003]), len(clip))).astype("f4")


def _finish(rng, clip) -> np.ndarray:
    """A little silence around it, as it would be recorded."""
    before, after = (rng.uniform(0.02, 0.12, 2) * RATE).astype(int)
    return recorded(rng, np.pad(clip, (before, after)))


def _ask(rng, question):
    return SOUND + question if rng.random() < 0.3 else question + SOUND


def tones(rng) -> Sample:
    """One to five beeps: how many? Two tones or a glide: up or down?"""
    if rng.random() < 0.5:
        n = int(rng.integers(1, 6))
        pitch = int(rng.choice([300, 400, 500, 600, 800, 1000, 1300]))
        length, gap = rng.uniform(0.08, 0.18), rng.uniform(0.08, 0.16)
        beep = tone(rng, pitch, pitch, length)
        clip = np.concatenate([np.pad(beep, (0, int(gap * RATE)))] * n)
        word = NUMBERS[n]
        ask = rng.choice(
            [
                "How many tones do you hear?",
                "How many beeps are there?",
                "Count the tones.",
                "How many sounds?",
                "How many tones are there?",
            ]
        )
        answer = f"{word.capitalize()} {'tone' if n == 1 else 'tones'}."
        return Sample(
            "audio",
            "tone count",
            [f"beeps {n} {pitch} {length:.2f} {gap:.2f}"],
            conversation([(_ask(rng, str(ask)), answer)]),
            audio=[_finish(rng, clip)],
        )
    low = int(rng.integers(200, 900))
    high = int(low * rng.uniform(1.25, 2.2))
    up = rng.random() < 0.5
    start, end = (low, high) if up else (high, low)
    if rng.random() < 0.5:
        clip = tone(rng, start, end, rng.uniform(0.3, 0.8))
    else:
        length = rng.uniform(0.15, 0.35)
        gap = np.zeros(int(rng.uniform(0, 0.15) * RATE), "f4")
        clip = np.concatenate([tone(rng, start, start, length), gap, tone(rng, end, end, length)])
    ask = rng.choice(
        [
            "Does the pitch go up or down?",
            "Is the pitch rising or falling?",
            "Up or down?",
            "Where does the pitch go?",
            "Does the tone rise or fall?",
        ]
    )
    answer = "The pitch goes up." if up else "The pitch goes down."
    return Sample(
        "audio",
        "pitch",
        [f"pitch {start} {end}"],
        conversation([(_ask(rng, str(ask)), answer)]),
        audio=[_finish(rng, clip)],
    )


def speech(rng, split="train") -> Sample:
    """A spoken digit; the evaluation hears only voices that training never had."""
    n = int(rng.integers(10))
    voice = str(rng.choice(TRAIN_VOICES if split == "train" else TEST_VOICES))
    speed, pitch = int(rng.choice([130, 150, 170, 190])), int(rng.choice([35, 50, 65]))
    clip = say(NUMBERS[n], voice, speed, pitch)
    ask = rng.choice(
        [
            "Which digit do you hear?",
            "Which number is spoken?",
            "What is said?",
            "Write down what you hear.",
            "Transcribe this.",
            "Which digit is spoken?",
        ]
    )
    sample = Sample(
        "audio",
        "spoken digit",
        [f"voice {voice} {n}"],
        conversation([(_ask(rng, str(ask)), NUMBERS[n].capitalize() + ".")]),
        audio=[_finish(rng, clip)],
    )
    sample.belongs_to = lambda wanted: wanted == split  # by voice, not by checksum
    return sample
