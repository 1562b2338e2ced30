"""``trace(model, prompt)``: reads a prompt once under a recorder."""

import mlx.core as mx
import psutil

from ...arguments import check_model
from ...errors import ContextError, TraceError
from ...generation import Progress, engine
from ...generation.memory import chunk_for
from ...generation.prefill import CHUNK, KEPT_BYTES, Prompt, SoftTokens
from ...model.cache import expect
from ...processing.template import render
from ..data.trace import Trace
from .plans import ActivationPlan, AttentionPlan, LensPlan, RoutingPlan, TracePlan, check_plan
from .recorder import Recorder
from .rerun import Rerun
from .room import free_disk, ready_folder, room

#: Share of the free memory that a trace may take.
MEMORY_SHARE = 0.8
_DEFAULT = object()


def trace(
    model,
    prompt,
    *,
    plan: TracePlan | None = None,
    attention: AttentionPlan | None = _DEFAULT,
    routing: RoutingPlan | None = _DEFAULT,
    lens: LensPlan | None = None,
    activations: ActivationPlan | None = None,
    chunk: int | None = None,
    memory: int | None = None,
    media_features=None,
    progress=None,
) -> Trace:
    """Run the model over a prompt and return what was observed.

    Args:
        model: a loaded model.
        prompt: text (``<bos>`` is put before it), token ids, a ``ModelInputs``, a list of chat
            messages, or a chat (what it would send next is traced).
        plan: all parts at once, in place of the four that follow.
        attention, routing: plans of these parts; None leaves a part out. By default attention is
            recorded, and routing if the model has experts. Queries and keys are kept as far as
            :meth:`.AttentionPlan.retention` finds room; those of other layers are computed when
            they are needed, by running the model again while it is in memory.
        lens, activations: further parts, by default left out.
        chunk: prompt tokens read at once; a picture is never cut. None: 2,048, with layers on disk
            more.
        memory: bytes the trace may take, by default 80% of what is free. With ``retain="auto"``
            fewer queries and keys are kept, as ``trace.plan`` then says; if the plan still needs
            more, the error, raised before anything runs, names one that fits.
        media_features: a dict that keeps encoded pictures and sounds between calls.
        progress: called with a ``Progress`` after every chunk.

    Raises:
        TraceError: the plan is empty or given beside its parts, names layers, heads or positions
            that do not exist, asks for routing from a model without experts, or does not fit; a
            chunk holds no token; text or messages for a model without tokenizer; or ``model`` is
            no model.
        MediaError: the prompt holds media that the model cannot take.
        ContextError: the prompt is empty, or longer than the model's context.
        GenerationError: a token id outside the vocabulary.
        ChatError: messages that the chat template refuses.
    """
    check_model(model, "trace", TraceError, " and then a prompt")
    given = (attention, routing, lens, activations)
    if plan is None:
        experts = model.config.text.enable_moe_block
        attention = AttentionPlan() if attention is _DEFAULT else attention
        routing = (RoutingPlan() if experts else None) if routing is _DEFAULT else routing
        plan = TracePlan(routing, attention, lens, activations)
    elif given != (_DEFAULT, _DEFAULT, None, None):
        raise TraceError("give trace() a plan or its parts, not both")
    check_plan(plan)
    if not plan.parts:
        raise TraceError("a trace of nothing: every part of the plan is None")
    prompt = Prompt.of(model, inputs_of(model, prompt))
    context = model.config.text.max_position_embeddings
    if len(prompt) > context:
        raise ContextError(
            f"The prompt has {len(prompt):,} tokens, the model's context is {context:,}."
        )
    if chunk is not None and chunk < 1:
        raise TraceError(f"a chunk of {chunk} tokens reads nothing")
    chunk = chunk_for(model, len(prompt), chunk)
    memory, disk = _room(plan, memory)
    plan = plan.within(model, len(prompt), memory)
    plan.check(model, len(prompt), memory, disk)
    mx.eval(model.parameters())  # lazy arrays belong to the thread that made them
    job = engine().submit(record, model, prompt, plan, chunk, media_features)
    for event in job.events():
        if progress is not None:
            progress(event)
    traced = job.result()
    if traced.attention is not None:
        _let_rerun(traced.attention, model, prompt, chunk, media_features, plan.attention)
    return traced


def _let_rerun(attention, model, prompt, chunk, media_features, plan: AttentionPlan) -> None:
    """Let a trace compute what was not kept, in memory if its largest layer fits there."""
    there = room(plan.folder)
    rerun = Rerun(model, prompt, chunk, media_features)
    largest = max(rerun.bytes_of(part.layer, len(part.heads)) for part in attention.parts)
    in_memory = plan.storage != "disk" and largest * len(prompt) <= there.memory
    if not in_memory and plan.storage != "memory":
        rerun.folder = ready_folder(plan.folder)
    attention.rerun = rerun
    attention.room = there.memory if rerun.folder is None else there.disk


def inputs_of(model, prompt):
    """Messages or a chat as ``ModelInputs`` or ids; text, ids and inputs as they are.

    Raises TraceError for text or messages if the model has no tokenizer, ChatError for messages the
    template refuses.
    """
    if hasattr(prompt, "inputs") and callable(prompt.inputs):
        return prompt.inputs()
    if isinstance(prompt, list | tuple) and prompt and isinstance(prompt[0], dict):
        if model.tokenizer is None:
            raise TraceError("messages need a tokenizer, and this model has none; give token ids")
        rendered = render(list(prompt), template=model.chat_template)
        return rendered.encode(model.tokenizer)
    if isinstance(prompt, str) and model.tokenizer is None:
        raise TraceError("text needs a tokenizer, and this model has none; give token ids")
    return prompt


def _room(plan: TracePlan, memory: int | None) -> tuple[int, int]:
    """Bytes of memory and of disk that a trace may take."""
    if memory is None:
        memory = int(psutil.virtual_memory().available * MEMORY_SHARE)
    return memory, free_disk(getattr(plan.attention, "folder", None))


def record(
    model, prompt: Prompt, plan: TracePlan, chunk: int = CHUNK, media_features=None, facts=None
):
    """Generator for the engine: reads a prompt under a recorder, yields Progress, returns the
    trace. ``facts``: see :class:`Recorder`."""
    recorder = Recorder(model, plan, len(prompt), prompt.inputs, facts)
    chunks = list(prompt.inputs.chunks(chunk))
    cache = None  # of a prompt that is read at once nobody asks for the keys and values again
    if len(chunks) > 1:
        cache = model.make_cache()
        expect(cache, len(prompt))
    soft = SoftTokens(model, prompt, 0, media_features)
    with model.observe(recorder):
        for start, stop in chunks:
            tokens = mx.array(prompt.tokens[start:stop])[None]
            hidden = model.hidden(tokens, cache, soft.between(start, stop))
            mx.eval(hidden, [entry.state for entry in cache or ()])
            del hidden
            if mx.get_cache_memory() > KEPT_BYTES:
                mx.clear_cache()
            yield Progress(stop, len(prompt), 0.0)
    recorder.finish()
    return recorder.trace()
