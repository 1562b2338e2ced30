"""What the Why view explains: a model, the tokens that it read, and what is asked about them.

:class:`Explaining` computes; each method may take seconds and is run in a thread of its own
(:mod:`.jobs`). Everything goes through the engine, so that others have their turns meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import AttributionError
from .side_by_side import Change, prompt_until, side_by_side

if TYPE_CHECKING:
    from ..attribution import Attribution, Part

ALTERNATIVES = 5  # likeliest tokens shown at each place of the answer
ROWS = 64  # places whose logits are in memory at once


@dataclass(frozen=True)
class Question:
    """Why does the model say ``target`` at ``position``, rather than ``against``?

    ``target`` None: the token that stands there, or the likeliest next one. ``method``: of
    :func:`gemma4_mlx.attribute`. ``stop``: of a span of several tokens, where it ends.
    """

    position: int
    target: int | None
    against: int | None
    method: str
    stop: int | None = None

    @property
    def place(self) -> int | tuple[int, int]:
        """As :func:`gemma4_mlx.attribute` takes it."""
        return self.position if self.stop is None else (self.position, self.stop)

    def as_dict(self) -> dict:
        return asdict(self)


class Explaining:
    """A model and what it read.

    Args:
        model: a loaded model
        inputs: ``ModelInputs`` of the conversation, answer included
        start: where the answer begins among its tokens; their number where there is none
        features: encoded pictures and sounds of the conversation, if they are kept somewhere

    Attributes:
        tokens, media: of the conversation, as a trace has them
        stop: where the answer ends: after the token that closes the model's turn; one beyond the
            conversation where there is no answer, so that the next token can be explained
    """

    def __init__(self, model: Any, inputs: Any, start: int, features: Any = None) -> None:
        from ..tracing.recording.tokens import media_of, tokens_of

        self.model, self.inputs, self.start = model, inputs, start
        self.tokens = tokens_of(model, np.array(inputs.tokens), inputs)
        self.media = media_of(inputs)
        self.stop = self._end(start)
        self._features = {} if features is None else features

    def _end(self, start: int) -> int:
        """Where an answer ends that begins at ``start``."""
        from ..tracing.data.tokens import KINDS

        n, special = len(self.tokens), KINDS.index("special")
        for at in range(start, n):
            if self.tokens.kinds[at] == special and self.tokens.texts[at] == "<turn|>":
                return at + 1
        return n if start < n else n + 1

    @classmethod
    def of_chat(cls, chat: Any) -> Explaining:
        """The conversation so far, as it would be read again."""
        from ..generation.prefill import turn_places

        inputs = chat.inputs()
        start = turn_places(inputs.tokens, chat.model.tokenizer)[1]
        return cls(chat.model, inputs, start, chat._features)

    @classmethod
    def of_written(
        cls, chat: Any, before: Sequence, written: Sequence[int], thinking: bool | int
    ) -> Explaining:
        """An answer token by token as the model wrote it, after the messages ``before``."""
        from ..chat.prompting import continued

        inputs = chat._prompting.inputs(before, chat.tools, thinking, True)
        whole = continued(inputs, list(written))
        return cls(chat.model, whole, len(inputs), chat._features)

    @classmethod
    def of_attribution(cls, why: Attribution, model: Any, inputs: Any) -> Explaining:
        """The conversation of an attribution.

        Raises TraceError if it has pictures or sound and no ``inputs`` are given, or others;
        AttributionError if it comes from an old file, which holds no tokens.
        """
        from .whatif import answer_start

        if not len(why.tokens):
            raise AttributionError("this file holds no tokens: attribute(model, ...) again")
        call = "Why(attribution, model=model, inputs=...)"
        prompt = prompt_until(model, why.tokens, len(why.tokens), inputs, call)
        return cls(model, prompt.inputs, min(answer_start(why.tokens), why.position))

    def question(self, target, against, position, method: str) -> Question:
        """A question as :func:`gemma4_mlx.attribute` takes it. Raises AttributionError as that."""
        from ..attribution.target import target_of

        if callable(target):
            raise AttributionError("a view explains tokens: give a function to g4.attribute")
        found = target_of(self.model, self.tokens, target, against, position)
        whole = found.stop if found.whole else None
        named = None if found.whole or not found.ids else found.ids[0]
        return Question(found.start, named, found.against, method, whole)

    def token(self, text: str) -> dict:
        """``{id, text}`` of a token given by its text or its number.

        Raises AttributionError if it is not one token of the vocabulary.
        """
        from ..attribution.target import text_of, token_of

        try:
            found = token_of(self.model, text)
        except AttributionError:
            if not text.strip().isdigit():
                raise
            found = token_of(self.model, int(text))
        return {"id": found, "text": text_of(self.model, found)}

    def attribute(self, question: Question, progress: Callable[[float], None]) -> Attribution:
        """The answer to a question; ``progress`` is told the share done. Errors as of
        :func:`gemma4_mlx.attribute`."""
        from ..attribution import attribute

        return attribute(
            self.model,
            self.inputs,
            question.target,
            against=question.against,
            position=question.place,
            method=question.method,
            media_features=self._features,
            progress=lambda event: progress(event.done / max(1, event.total)),
        )

    def answer(self, progress: Callable[[float], None]) -> list:
        """Of each token of the answer ``[text, id, probability, [[id, text, probability], ...]]``,
        the last being the likeliest there. Text and id of a token that is not yet there are None.
        """
        from ..attribution.target import text_of
        from ..generation import engine

        job = engine().submit(_alternatives, self)
        for share in job.events():
            progress(share)
        found = []
        for at, (own, ids, shares) in zip(range(self.start, self.stop), job.result()):
            others = [[i, text_of(self.model, i), round(p, 6)] for i, p in zip(ids, shares)]
            if at < len(self.tokens):
                id, text = int(self.tokens.ids[at]), self.tokens.texts[at]
                found.append([text, id, round(own, 6), others])
            else:
                found.append([None, None, None, others])
        return found

    def without(
        self,
        question: Question,
        parts: Sequence[Part],
        others: Sequence[Part],
        max_tokens: int,
        progress: Callable[[float], None],
    ) -> dict:
        """What the model says from the question's place on: as it is, without ``parts``, and
        without ``others``, which were drawn at random. As :func:`.side_by_side` gives it.

        Where "direct" found the shares, parts are removed while answering; else, as positions
        always are, while the prompt is read as well: that is what a share is about.
        """
        from ..attribution.measure import removal

        call = "Why(...)"
        prompt = prompt_until(self.model, self.tokens, question.position, self.inputs, call)
        kinds = {part.kind for part in parts}
        done = ["the output counts as zero"] if kinds - {"position"} else []
        done += ["nothing reads the token"] if "position" in kinds else []
        changes = [
            Change(f"Without {_named(parts)}", "; ".join(done), [removal(part) for part in parts]),
            Change(
                f"Control: without {_named(others)}",
                "as many of the same kind, drawn at random",
                [removal(part) for part in others],
            ),
        ]
        return side_by_side(
            self.model,
            prompt,
            [change for change in changes if change.interventions],
            max_tokens=max_tokens,
            everywhere=question.method != "direct" or "position" in kinds,
            progress=progress,
        )

    def removable(self, why: Attribution) -> dict[tuple, Part]:
        """What can be taken away, by (kind, layer, index): the parts, and the positions before the
        one that says the token."""
        from ..attribution import Part

        found = why.parts
        shares = np.zeros(why.position) if why.positions is None else why.positions
        found += [
            Part("position", None, i, float(shares[i]), self.tokens.texts[i])
            for i in range(why.position - 1)
        ]
        return {(part.kind, part.layer, part.index): part for part in found}


def drawn_beside(parts: Sequence[Part], there: dict[tuple, Part], kinds) -> list[Part]:
    """As many others of ``there``, each of the kind of one of ``parts``, and of its layer where
    one is left; for a patch a patch, for a word a word (``kinds``: of the tokens). The same every
    time."""
    rng = np.random.default_rng(0)
    taken = {(p.kind, p.layer, p.index) for p in parts}
    found = []
    for part in parts:
        free = [p for key, p in there.items() if p.kind == part.kind and key not in taken]
        if part.kind == "position":
            near = [p for p in free if kinds[p.index] == kinds[part.index]] or free
        else:
            near = [p for p in free if p.layer == part.layer] or free
        if near:
            found.append(near[int(rng.integers(len(near)))])
            taken.add((part.kind, found[-1].layer, found[-1].index))
    return found


def _alternatives(told: Explaining):
    """Generator for the engine: yields the share done; returns, for each token of the answer and
    the next one, (its probability, likeliest ids, their probabilities)."""
    import mlx.core as mx

    from ..generation.prefill import CHUNK, Prompt, SoftTokens
    from ..model.cache import expect

    model, prompt = told.model, Prompt.of(told.model, told.inputs)
    cache, first = model.make_cache(), told.start - 1
    expect(cache, len(prompt))
    soft = SoftTokens(model, prompt, 0, told._features)
    found = []
    for start, stop in prompt.inputs.chunks(CHUNK):
        tokens = mx.array(prompt.tokens[start:stop])[None]
        features = soft.between(start, stop)
        if stop <= first:
            model.read(tokens, cache, features)
        else:
            hidden = model.hidden(tokens, cache, features)[0]
            for row in range(max(start, first), stop, ROWS):
                rows = slice(row - start, min(row + ROWS, stop) - start)
                found += _likeliest(model, hidden[rows], prompt.tokens[row + 1 : row + ROWS + 1])
        mx.eval([entry.state for entry in cache])
        mx.clear_cache()
        yield stop / len(prompt)
    return found


def _likeliest(model, hidden, following: list[int]) -> list[tuple]:
    """(Probability of the token that follows, likeliest ids, their probabilities) of places."""
    import mlx.core as mx

    logits = model.head(hidden)
    probabilities = mx.softmax(logits, axis=-1)
    best = mx.argpartition(-logits, ALTERNATIVES, axis=-1)[:, :ALTERNATIVES]
    shares = mx.take_along_axis(probabilities, best, axis=-1)
    own = mx.array([*following, *[0] * (len(hidden) - len(following))])[: len(hidden), None]
    said = mx.take_along_axis(probabilities, own, axis=-1)[:, 0].tolist()
    rows = zip(said, best.tolist(), shares.tolist())
    found = []
    for k, (p, ids, each) in enumerate(rows):
        order = sorted(zip(each, ids), key=lambda pair: (-pair[0], pair[1]))
        known = p if k < len(following) else None
        found.append((known, [i for _, i in order], [q for q, _ in order]))
    return found


def _named(parts: Sequence[Part]) -> str:
    return ", ".join(
        f"token {p.index} “{p.text}”" if p.kind == "position" else str(p) for p in parts
    )
