"""``verify(model)``: the user's own proof, on the user's machine."""

import platform
import time
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..checkpoints import load
from ..checkpoints.find import find
from ..errors import Gemma4Error
from . import media, questions, runs
from .report import Finding, Report
from .weights import Weights

#: What is done, in this order.
PARTS = ("weights", "layers", "ways", "media", "questions")


def verify(
    model=None, *, folder: str | Path | None = None, parts: Sequence[str] = PARTS, progress=None
) -> Report:
    """Hold a model against plain arithmetic and against itself; a :class:`Report`.

    Every mechanism of every layer runs as it always does (on the default device, in the loaded
    type) and is compared with plain float32 on the CPU, on its own inputs: in a whole prompt past
    the window and past 1,066 tokens, for the next token and for a chunk. Then the whole prompt
    against chunks and caches, packed against unpacked, towers, a dozen questions and a text.

    Args:
        model: a loaded model, or what :func:`gemma4_mlx.load` takes.
        folder: the checkpoint's files, from which the weights are read a second time; known if
            ``model`` is a name. None with a loaded model: its own weights are taken as they are.
        parts: some of :data:`PARTS`.
        progress: called with the name of each part before it begins.

    Raises CheckpointError and ConfigError as loading does, and CheckpointError for a model with
    weights on disk.
    """
    began = time.perf_counter()
    if model is None or isinstance(model, str | Path):
        folder = find(model)
        model = load(model)
    model.need_weights("verify")
    dtype = str(model.dtype).removeprefix("mlx.core.")
    weights = Weights(
        model, None if folder is None else Path(folder),
        np.float64 if dtype == "float32" else np.float32,
    )  # fmt: skip
    report = Report(model.source or "a model", _machine(), _facts(model, dtype))
    tokens = _tokens(model)
    making = {
        "weights": weights.findings,
        "layers": lambda: runs.layers(model, weights, tokens, dtype),
        "ways": lambda: runs.ways(model, tokens[: max(200, _window(model) + 60)], dtype),
        "media": lambda: media.findings(model, weights, dtype),
        "questions": lambda: _questions(model, report),
    }
    for name in parts:
        if progress is not None:
            progress(name)
        try:
            report.findings += making[name]()
        except (Gemma4Error, ValueError, RuntimeError) as error:
            report.findings.append(Finding(name, None, type(error).__name__, note=str(error)))
    if "weights" in parts and not any(f.part == "weights" for f in report.findings):
        held = "are what the files hold" if folder else "are numbers"
        report.findings.append(Finding("weights", None, "tensors", note=held, fine=True))
    report.seconds = time.perf_counter() - began
    return report


def _window(model) -> int:
    text = model.config.text
    return text.sliding_window if "sliding_attention" in text.layer_types else 0


def _tokens(model) -> np.ndarray:
    """Text, where the model can read, again and again until it is long enough."""
    text = model.config.text
    n = min(max(runs.LENGTH, _window(model) + 200), text.max_position_embeddings)
    if model.tokenizer is None:
        ids = np.random.default_rng(0).integers(3, text.vocab_size, 4 * n)
        ids = ids[~np.isin(ids, model.config.soft_token_ids)]
    else:
        ids = np.array(questions.text_ids(model))
    return np.resize(ids, n).astype(np.int32)


def _questions(model, report: Report) -> list[Finding]:
    if model.tokenizer is None:
        report.notes.append("No tokenizer: no question was asked.")
        return []
    report.questions = questions.asked(model)
    report.perplexity = questions.perplexity(model)
    return questions.judged(report.questions, report.perplexity)


def _machine() -> str:
    from importlib.metadata import version

    return (
        f"{platform.platform()}, {platform.machine()}, MLX {version('mlx')} on "
        f"{mx.default_device()}, Python {platform.python_version()}"
    )


def _facts(model, dtype: str) -> dict:
    text = model.config.text
    packed = {f"{m.bits} bits" for _, m in model.named_modules() if hasattr(m, "bits")}
    return {
        "type": ", ".join([dtype, *sorted(packed)]),
        "layers": f"{text.num_hidden_layers}, of them "
        f"{text.layer_types.count('full_attention')} with full attention",
        "experts": text.num_experts or "none",
        "fingerprint": model.fingerprint[:16],
    }
