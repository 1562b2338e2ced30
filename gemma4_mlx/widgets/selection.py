"""The bridge between a trace's selection and the widgets opened on it.

``trace.selection`` (:mod:`gemma4_mlx.tracing.data.selection`) is a plain Python value that knows
nothing of widgets. A :class:`LinkedWidget` mirrors it in one small trait, ``selection``, a
dictionary such as ``{"token": 12, "layer": 3, "head": None, "expert": 5}``, both ways: point at a
token in one widget and all of them follow, and so does ``trace.selection.token`` in the next cell;
set that in a cell and the widgets follow. Widgets with the same ``selection_key`` also follow each
other inside the page, so that pointing stays quick while the kernel is busy.
"""

from __future__ import annotations

import weakref
from typing import Any

import traitlets

from .base import Widget


class LinkedWidget(Widget):
    """A widget that takes part in a trace's selection. Call :meth:`link` once, in ``__init__``."""

    selection = traitlets.Dict().tag(sync=True)
    selection_key = traitlets.Unicode("").tag(sync=True)

    def link(self, selection: Any) -> None:
        """Follow and drive ``selection`` (it has ``as_dict``, ``update`` and ``observe``)."""
        self._linked = selection
        self.selection_key = f"{id(selection):x}"
        self.selection = selection.as_dict()
        self.observe(self._to_python, names=["selection"])
        reference = weakref.ref(self)  # the trace outlives the widget and must not keep it

        def follow(_selection: Any = None) -> None:
            widget = reference()
            if widget is not None:
                widget.selection = selection.as_dict()

        selection.observe(follow)

    def _to_python(self, change: dict) -> None:
        try:
            self._linked.update(**change["new"])
        except Exception as error:
            self.report(error)
