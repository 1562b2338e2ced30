"""The errors of this package.

Each message names what was wrong, where, and what to do about it. All derive from
:class:`Gemma4Error`; those caused by a bad argument are a :class:`ValueError` as well, so that
ordinary ``except ValueError`` code works. Where none of them fits, the error is one of Python's
own, such as ``ValueError`` or ``IndexError``.
"""


class Gemma4Error(Exception):
    """Base class of the package's errors."""


class ConfigError(Gemma4Error, ValueError):
    """A ``config.json`` that is not a Gemma 4 model's, or holds impossible values."""


class CheckpointError(Gemma4Error):
    """A checkpoint folder or file that cannot be read as it stands."""


class MediaError(Gemma4Error, ValueError):
    """An image, sound or video that cannot be read, or a model that cannot take it."""


class ContextError(Gemma4Error, ValueError):
    """A prompt that is empty, longer than the model's context, or larger than memory allows."""


class GenerationError(Gemma4Error, ValueError):
    """Sampling options or stop conditions that make no sense."""


class ChatError(Gemma4Error, ValueError):
    """A conversation that cannot be rendered, edited, saved or loaded."""


class ToolError(Gemma4Error, ValueError):
    """A tool that cannot be declared to the model, or a call that does not fit its declaration."""


class SchemaError(Gemma4Error, ValueError):
    """A schema or grammar that constrained decoding cannot honour."""


class TraceError(Gemma4Error, ValueError):
    """A trace, plan, layer, head or span that does not exist or cannot be read."""


class AttributionError(Gemma4Error, ValueError):
    """A target that cannot be explained, or an attribution that cannot be read or checked."""


class StudyError(Gemma4Error, ValueError):
    """A corpus that cannot be read, or an atlas that cannot be built, merged or opened."""


class InterventionError(Gemma4Error, ValueError):
    """An intervention that names a layer, head, expert or span the model does not have."""


class ClusterError(Gemma4Error, RuntimeError):
    """Machines that cannot compute a model together: one is missing, silent, or different."""


class MissingError(Gemma4Error, ImportError):
    """Something that runs a model, on a machine without MLX."""

    @classmethod
    def of(cls, what: str, error: ImportError) -> "MissingError | None":
        """For an import that failed because MLX is not there; None where it is something else."""
        if (error.name or "").split(".")[0] not in ("mlx", "mlx_lm"):
            return None
        return cls(f"{what} needs MLX, which is not installed here; `gemma4-mlx check` says how")
