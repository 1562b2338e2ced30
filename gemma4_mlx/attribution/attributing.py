"""``attribute(model, prompt)``: checks the question and has a method answer it."""

from dataclasses import replace

from ..arguments import check_model
from ..errors import AttributionError, ContextError
from ..generation.prefill import CHUNK, Prompt
from ..tracing.recording.run import inputs_of
from ..tracing.recording.tokens import tokens_of
from .aligning import corrupt_prompt
from .cost import check_memory
from .data import Attribution
from .direct import direct
from .gradient import gradient, patching
from .integrated import integrated
from .measure import Measure
from .question import Question
from .target import target_of, token_of

METHODS = ("direct", "gradient", "integrated", "patching")


def attribute(
    model,
    prompt,
    target=None,
    *,
    against: int | str | None = None,
    position: int | tuple[int, int] | None = None,
    method: str = "direct",
    corrupt=None,
    baseline: int | str | None = None,
    steps: int | None = None,
    chunk: int = CHUNK,
    memory: int | None = None,
    media_features=None,
    progress=None,
) -> Attribution:
    """Why the model says a token: what spoke for it and against it, parts of the model and
    positions of the prompt.

    Args:
        model: a loaded model.
        prompt: what :func:`gemma4_mlx.trace` takes: text, token ids, a ``ModelInputs``, chat
            messages, or a chat. A chat that ends in an answer is read as it would be read again,
            answer included.
        target: what is explained, see :class:`.target.Target`: a token by its id or its text, and
            then its logit; a span of the answer by its text or ids, and then the sum of its tokens'
            logits; or a function of an ``mx.array`` of logits, (V,) float32, that returns one
            number. None: the token or span that stands at the position, or, where none does, the
            likeliest token.
        against: another token; what is explained is then the logit of ``target`` less its.
        position: the explained token's place among the prompt's tokens, from 1 on (negative:
            from the end), or their number for the next one; (start, stop) for a span, and a
            function of (m, V) logits. None: in a chat that ends in an answer, where the answer
            first says ``target``; else the next token.
        method: "direct" (:mod:`.direct`) for parts' shares that sum to the logit, "gradient" or
            "patching" (:mod:`.gradient`) for parts and positions, "integrated"
            (:mod:`.integrated`) for positions' shares that sum to the logit's rise from a baseline.
            See :class:`.Attribution` for what their shares mean.
        corrupt: for "patching", a prompt of as many tokens in which what matters is another.
        baseline: for "integrated", the token that stands for nothing; None: padding.
        steps: for "integrated", points at which the gradient is taken; None: as many as it takes
            for the shares to miss less than 0.5% of the rise.
        chunk: tokens read at once.
        memory: bytes that a gradient may take, by default what is free.
        media_features: a dict that keeps encoded pictures and sounds between calls.
        progress: called with a ``Progress`` after every chunk and every layer.

    "direct" takes only the one position before the explained token apart, so its memory is that of
    reading the prompt. Where ``model.intervene`` is in force, the changed run is explained.

    Raises:
        AttributionError: a target that is not in the vocabulary or that the answer does not say, a
            function that returns no number, a token that is compared with itself, a position or
            method that does not exist, an argument that the method does not take, a corrupt prompt
            whose positions are not the prompt's, too little memory, or ``model`` is none.
        TraceError: text or messages for a model without tokenizer.
        ContextError: the prompt is empty, or longer than the model's context.
        MediaError: the prompt holds media that the model cannot take.
        GenerationError: a token id in the prompt is outside the vocabulary.
        ChatError: messages that the chat template refuses.
        CheckpointError: a gradient of a model whose weights stay on disk.
    """
    check_model(model, "attribute", AttributionError, " and then a prompt")
    _check_method(method, corrupt, baseline, steps)
    if chunk < 1:
        raise AttributionError(f"a chunk of {chunk} tokens reads nothing")
    prompt = Prompt.of(model, inputs_of(model, prompt))
    context = model.config.text.max_position_embeddings
    if len(prompt) > context:
        raise ContextError(
            f"The prompt has {len(prompt):,} tokens, the model's context is {context:,}."
        )
    tokens = tokens_of(model, prompt.tokens, prompt.inputs)
    target = target_of(model, tokens, target, against, position)
    question = Question(model, prompt, tokens, target, chunk, media_features)
    if method != "direct" or model.divided:
        model.need_weights(f"method {method!r}")
    if method != "direct":
        check_memory(question, method, memory)
    other = None
    if method == "direct":
        found = question.run(progress, direct)
    elif method == "gradient":
        found = question.run(progress, gradient)
    elif method == "patching":
        other = corrupt_prompt(model, prompt, corrupt, target.start)
        found = question.run(progress, patching, other)
    else:
        nothing = model.config.text.pad_token_id if baseline is None else token_of(model, baseline)
        found = question.run(progress, integrated, nothing, steps)
    if target.one_token:  # the likeliest one is known now
        target = replace(target, ids=found.target[:1])
    return replace(found, measure=Measure(replace(question, target=target), method, other))


def _check_method(method: str, corrupt, baseline, steps: int | None) -> None:
    """Raise AttributionError for a method that does not exist, and for what it does not take."""
    if method not in METHODS:
        raise AttributionError(f"method {method!r}; there is {', '.join(map(repr, METHODS))}")
    if (corrupt is None) == (method == "patching"):
        raise AttributionError(
            "patching compares with another prompt: give it as corrupt="
            if corrupt is None
            else f"method {method!r} takes no corrupt prompt; 'patching' does"
        )
    if method != "integrated" and (baseline is not None or steps is not None):
        raise AttributionError(
            f"method {method!r} takes no baseline and no steps; 'integrated' does"
        )
    if steps is not None and steps < 1:
        raise AttributionError(f"an integral of {steps} steps is none: give at least 1")
