"""The notebook widgets: ``Prompt``, ``Routing``, ``Attention``, ``Why``, ``Atlas``, ``Anatomy``
and ``Fit``.

Each is one small Python class, one plain ES module and one style sheet. They hold no science: a
widget draws what a chat or a trace gives it and sends back selections, and everything it does works
from plain Python too. :mod:`gemma4_mlx.widgets.base` says how the pieces fit together.
"""

from ..lazy import lazily

_WHERE = {
    "Prompt": "prompt",
    "Routing": "routing",
    "Attention": "attention",
    "Why": "why",
    "Atlas": "atlas",
    "Anatomy": "anatomy",
    "Fit": "fit",
    "Snapshot": "snapshot",
}
__all__ = list(_WHERE)

__getattr__ = lazily(__name__, _WHERE)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
