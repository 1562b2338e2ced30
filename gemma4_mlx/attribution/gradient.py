"""Attribution by gradients: gradient x input, integrated gradients, attribution patching.

All three go back through a run of the prompt (:mod:`.run`, :mod:`.backward`) and multiply the
derivative of the target's score by a difference of inputs:

- *gradient x input*: the input itself. What the score would lose were the model linear and the
  input zero (Simonyan et al. 2013; Shrikumar et al. 2016).
- *attribution patching*: the input less a corrupt prompt's (Nanda 2023), and for each part of the
  model its output less the corrupt run's.
- *integrated gradients* (Sundararajan et al. 2017): the input less a baseline's, and in place of
  one derivative its mean along the straight line between the two, see :mod:`.integrated`.

The input of a position is its embedding or soft token, and with it the per-layer embeddings that
are looked up by its token; what is projected from its embedding to per-layer inputs counts through
the embedding. Experts are those that the run chose: the choice itself has no derivative, only the
weights have.

*What stands before a norm.* A norm forgets the common scale of what it reads. So the gradient x
input of all heads of a layer together is zero (``post_attention_layernorm``), as is that of all its
experts (``post_feedforward_layernorm_2``): such a share says for what a head turned the sum, not
how much of it is there.

*Precision.* Gradients are exact: what an mx.grad of the whole model would give, to float32's
rounding. In 16 bits values and derivatives inside a layer are rounded as the model's own are;
derivatives between layers, and sums over queries and over positions, are float32. Of the teaching
model's answers to five questions in bfloat16, shares are off by 1 to 18% of the largest, most of
them by less than 5%, in float16 all by less than 1%; but an expert that only one of the types
chooses has its share in that one alone. Packed weights are used as they are, for only activations
are derived by.
"""

import mlx.core as mx
import numpy as np

from ..generation.prefill import Prompt
from .backward import Backward, Gradient
from .inputs import difference, inputs_of
from .question import Question
from .run import Run, Span
from .target import Target


def gradient(question: Question):
    """Generator for the engine: yields Progress, returns gradient x input as an Attribution."""
    run = run_of(question)
    yield from run.read()
    target, total, direction = scored(run, question.target)
    found = yield from Backward(run, difference(inputs_of(run)))(direction)
    return question.answer("gradient", target, total, **shares(question, run, found))


def patching(question: Question, corrupt: Prompt):
    """Generator for the engine: yields Progress, returns attribution patching's shares."""
    run, other = run_of(question), run_of(question, corrupt)
    yield from run.read()
    yield from other.read()
    target, total, direction = scored(run, question.target)
    base = scored(other, target)[1]
    way = difference(inputs_of(run), inputs_of(other))
    found = yield from Backward(run, way, other=other)(direction)
    return question.answer("patching", target, total, base=base, **shares(question, run, found))


def run_of(question: Question, prompt: Prompt | None = None, inputs=None) -> Run:
    """The run of the question's prompt, or of another of the same length, that is to be read."""
    queries = question.target.queries
    return Run(
        question.model,
        prompt or question.prompt,
        queries.start,
        queries.stop,
        question.chunk,
        question.media_features,
        inputs,
    )


def scored(run: Run, target: Target) -> tuple[Target, float, dict[Span, mx.array]]:
    """The target with its ids, its value in a run, and the derivative by the run's outcome."""
    model, tail = run.model, run.tail
    outcome = mx.concatenate([run.outcome[span] for span in tail], axis=1)
    first = target.queries.start - tail[0][0]
    tap, norm = model.changes(), model.language_model.model.norm

    def normed(outcome: mx.array) -> mx.array:
        hidden = tap("final_hidden", norm(outcome))
        return hidden[0, first : first + len(target.queries)]

    target = target.known(model, normed(outcome))
    total, derivative = target.derivative(model, normed, outcome)
    starts = [span[0] - tail[0][0] for span in tail[1:]]
    return target, total, dict(zip(tail, mx.split(derivative, starts, axis=1)))


def shares(question: Question, run: Run, found: Gradient) -> dict[str, np.ndarray]:
    """A gradient's shares as attributes of an Attribution."""
    shares = dict(found.parts)
    if "experts" in shares:
        weights = np.stack([run.weight_of_experts(layer) for layer in range(len(run.experts))])
        ids = np.argsort(-weights, axis=-1, kind="stable")
        ranked = {"experts": shares["experts"], "expert_weights": weights}
        shares |= {k: np.take_along_axis(v, ids, axis=-1) for k, v in ranked.items()}
        shares["expert_ids"] = ids.astype(np.int32)
    shares["positions"] = position_shares(question, found.positions)
    shares["stream"] = position_shares(question, found.stream)
    return shares | {"embedding": found.embedding}


def position_shares(question: Question, found: np.ndarray) -> np.ndarray:
    """Shares (..., n) of all positions of the prompt: what stands behind what was read has none."""
    unread = len(question.prompt) - found.shape[-1]
    return np.pad(found, [(0, 0)] * (found.ndim - 1) + [(0, unread)]).astype(np.float32)
