"""What a gradient needs in memory, counted before anything runs."""

from ..checkpoints.planner import activation_bytes, cache_bytes
from ..errors import AttributionError
from ..generation.memory import RESERVE, free_memory
from ..model.ops import on_cpu
from ..tracing.recording.plans import in_bytes
from .question import Question
from .target import ROWS

#: What a span's derivative holds, of what computing it alone does.
DERIVATIVE = 4


def cost(question: Question, method: str) -> dict[str, int]:
    """Bytes by part that a method needs beside weights and soft tokens; rather too many."""
    model, queries = question.model, question.target.queries
    text, itemsize = model.config.text, model.dtype.size
    n, layers = queries.stop, text.num_hidden_layers
    # Layers that share others' keys and values are computed for the last positions alone.
    rows = text.first_kv_shared_layer * n + (layers - text.first_kv_shared_layer) * len(queries)
    width = text.hidden_size + (12 * text.top_k_experts // itemsize if text.enable_moe_block else 0)
    run = (rows * width + n * text.hidden_size) * itemsize
    per_layer = n * layers * text.hidden_size_per_layer_input * itemsize
    runs = 2 if method == "patching" else 1
    logits = len(queries) if question.target.function is not None else min(len(queries), ROWS)
    derivatives = n * (8 * text.hidden_size + 4 * layers) + per_layer
    return {
        "what enters the layers": runs * (run + per_layer),
        "derivatives": derivatives + (n * width * itemsize if method == "integrated" else 0),
        "keys and values": max(
            sum(cache_bytes(text, n, itemsize, chunk=question.chunk).values()),
            runs * _keys_values(text, n, itemsize),
        ),
        "one chunk": DERIVATIVE
        * activation_bytes(text, n, itemsize, None, question.chunk, on_cpu()),
        "logits": 4 * 4 * logits * text.vocab_size,
    }


def check_memory(question: Question, method: str, memory: int | None) -> None:
    """Raise AttributionError if a method needs more than ``memory`` bytes; None: than are free."""
    parts = cost(question, method)
    needed = sum(parts.values())
    there = max(0, free_memory() - RESERVE) if memory is None else memory
    if needed <= there:
        return
    of = ", ".join(f"{name} {in_bytes(size)}" for name, size in parts.items())
    advice = ["a shorter prompt"]
    if question.chunk > 256:
        advice.append("a smaller chunk=")
    if method == "patching":
        advice.append("method='gradient', which reads one prompt")
    tokens = f"{question.target.queries.stop:,} tokens"
    raise AttributionError(
        f"method {method!r} needs {in_bytes(needed)} for {tokens} ({of}); there are "
        f"{in_bytes(there)} for it. Try {', '.join(advice)}; or method='direct', which takes no "
        "more than reading does"
    )


def _keys_values(text, n: int, itemsize: int) -> int:
    """Bytes of the keys and values that are held at once, and of their derivatives in float32: the
    largest layer's, and those of the layers that others share."""

    def size(layer: int) -> int:
        numbers = 2 * text.kv_heads_of(layer) * text.head_dim_of(layer)
        return n * numbers * (2 * itemsize + 4)

    shared = {text.kv_donor(i) for i in range(text.first_kv_shared_layer, text.num_hidden_layers)}
    return sum(map(size, shared)) + max(map(size, range(text.first_kv_shared_layer)))
