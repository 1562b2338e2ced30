"""The layers, heads and positions that a plan or an intervention names, checked."""

from collections.abc import Iterable
from operator import index

from ...errors import Gemma4Error, TraceError


def text_config(model):
    """The text configuration of a model, or of a ``Gemma4Config`` or ``TextConfig``."""
    config = getattr(model, "config", model)
    return getattr(config, "text", config)


def store_indices(frozen, *names: str, error: type[Gemma4Error]) -> None:
    """Make fields that hold an index or several, numpy's as well, tuples of int.

    Raises ``error`` for anything else.
    """
    for name in names:
        given = getattr(frozen, name)
        several = given if isinstance(given, Iterable) else (given,)
        try:
            object.__setattr__(frozen, name, tuple(map(index, several)))
        except TypeError:
            raise error(
                f"{name}={given!r}: give an index or several, such as {name}=(0, 3)"
            ) from None


def store_choices(plan, *names: str) -> None:
    """:func:`store_indices` for a plan's fields, in which None stays and means all."""
    given = [name for name in names if getattr(plan, name) is not None]
    store_indices(plan, *given, error=TraceError)


def checked_indices(
    wanted: tuple[int, ...] | None, count: int, what: str, whose: str = "this model"
) -> tuple[int, ...]:
    """None (all) or some indices, checked against ``count``; sorted, without repeats.

    Raises TraceError for one that is not there, and for an empty choice.
    """
    if wanted is None:
        return tuple(range(count))
    wrong = [i for i in wanted if not 0 <= i < count]
    if wrong or not wanted:
        shown = ", ".join(map(str, wrong)) or "an empty choice"
        raise TraceError(f"{what} {shown}: {whose} has {what}s 0 to {count - 1}")
    return tuple(sorted(set(wanted)))


def check_length(n_tokens: int) -> None:
    if n_tokens < 1:
        raise TraceError(f"a prompt of {n_tokens} tokens has nothing to trace")


def itemsize(model) -> int:
    """Bytes of an activation: 2 for 16-bit models, else 4; 4 if only a configuration is given."""
    return getattr(getattr(model, "dtype", None), "size", 4)
