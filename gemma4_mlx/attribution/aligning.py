"""A clean prompt and a corrupt one, position by position: of one length, or made so."""

from difflib import SequenceMatcher
from itertools import takewhile

import numpy as np

from ..errors import AttributionError
from ..generation.prefill import Prompt
from ..processing.inputs import ModelInputs
from ..tracing.recording.run import inputs_of
from .target import text_of, token_of


def stretches(clean: list[int], corrupt: list[int]) -> list[tuple[slice, slice]]:
    """Where two prompts differ: stretches of the one, and what stands there in the other."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(clean, corrupt)))
    ends = zip(reversed(clean[same:]), reversed(corrupt[same:]))
    end = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    middles = clean[same : len(clean) - end], corrupt[same : len(corrupt) - end]
    found = SequenceMatcher(None, *middles, autojunk=False).get_opcodes()
    return [
        (slice(a + same, b + same), slice(c + same, d + same))
        for kind, a, b, c, d in found
        if kind != "equal"
    ]


def correspondence(model, base: list[int], source: list[int], align: bool) -> np.ndarray:
    """The position in ``source`` for each one in ``base``, -1 for none: (n,) int.

    Prompts of one length correspond position by position. With ``align`` those of two lengths do in
    the stretches that they share or that are equally long.

    Raises AttributionError for different lengths without ``align``.
    """
    if len(base) == len(source):
        return np.arange(len(base))
    if not align:
        raise AttributionError(
            f"one prompt has {len(base):,} tokens and the other {len(source):,}: a patch needs one "
            f"position for each. {_said(model, base, source)} Reword one; or give align=True: what "
            "differs in length is then not patched; or make both one length with "
            "gemma4_mlx.attribution.align(model, clean, corrupt), which fills the shorter "
            "stretches up"
        )
    found, shift, at = np.full(len(base), -1), 0, 0
    for a, b in stretches(base, source):
        found[at : a.start] = np.arange(at, a.start) + shift
        if a.stop - a.start == b.stop - b.start:
            found[a] = np.arange(b.start, b.stop)
        at, shift = a.stop, b.stop - a.stop
    found[at:] = np.arange(at, len(base)) + shift
    return found


def corrupt_prompt(model, clean: Prompt, corrupt, position: int) -> Prompt:
    """The corrupt prompt, checked against the clean one. An answer that it lacks, from ``position``
    on, is the clean prompt's.

    Raises AttributionError if the two have other lengths, or pictures and sounds at other places.
    """
    corrupt = Prompt.of(model, inputs_of(model, corrupt))
    if len(corrupt) == position < len(clean):
        inputs, answer = corrupt.inputs, clean.tokens[position:]
        types = np.pad(inputs.token_types, (0, len(answer)))
        inputs = ModelInputs([*inputs.tokens, *answer], types, inputs.media)
        corrupt = Prompt.of(model, inputs)
    if len(corrupt) != len(clean):
        raise AttributionError(
            f"the prompt has {len(clean):,} tokens and corrupt= has {len(corrupt):,}: their "
            f"positions cannot be compared. {_said(model, clean.tokens, corrupt.tokens)} Give a "
            "corrupt prompt that differs by as many tokens, or make one with "
            "gemma4_mlx.attribution.align(model, prompt, corrupt), which fills the shorter "
            "stretches up"
        )
    places = [[(s.kind, s.start, s.stop) for s in p.inputs.media] for p in (clean, corrupt)]
    if places[0] != places[1]:
        raise AttributionError(
            "the prompt and corrupt= have pictures or sounds of other sizes or at other positions: "
            f"{places[0]} and {places[1]}"
        )
    return corrupt


def _said(model, clean: list[int], corrupt: list[int]) -> str:
    """Which positions differ in length, the first few of them."""

    def text(ids, some: slice) -> str:
        return "".join(text_of(model, i) for i in ids[some])

    different = [
        f"{a.start} to {a.stop} ({text(clean, a)!r:.60}) against {b.stop - b.start} "
        f"({text(corrupt, b)!r:.60})"
        for a, b in stretches(clean, corrupt)
        if a.stop - a.start != b.stop - b.start
    ]
    more = f", and {len(different) - 3} more" if len(different) > 3 else ""
    return f"They differ in length at positions {'; '.join(different[:3])}{more}."


def align(model, clean, corrupt, filler: int | str | None = None) -> tuple[list[int], list[int]]:
    """Two prompts as token ids of one length: where one has fewer tokens than the other in place of
    the same words, ``filler`` is put before them.

    Look at what comes out: a filler is something that the model reads.

    Args:
        model: a loaded model.
        clean, corrupt: prompts of text, token ids or messages, without pictures and sounds.
        filler: one token's id or text; None: padding.

    Raises:
        AttributionError: a prompt has media, or the filler is not one token.
    """
    prompts = [Prompt.of(model, inputs_of(model, prompt)) for prompt in (clean, corrupt)]
    if any(prompt.inputs.media for prompt in prompts):
        raise AttributionError(
            "prompts with pictures or sounds are not aligned: a picture's size says how many "
            "tokens it has"
        )
    fill = model.config.text.pad_token_id if filler is None else token_of(model, filler)
    old, new = [prompt.tokens for prompt in prompts], ([], [])
    done = [0, 0]
    for places in stretches(*old):
        longest = max(place.stop - place.start for place in places)
        for i, place in enumerate(places):
            missing = longest - (place.stop - place.start)
            new[i].extend(old[i][done[i] : place.start] + [fill] * missing + old[i][place])
            done[i] = place.stop
    return tuple(made + given[at:] for made, given, at in zip(new, old, done))
