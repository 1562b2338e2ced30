"""The selected token, layer, head and expert, shared by all views of a trace.

An observable object: views, or any Python code, set fields and are called at changes::

    stop = trace.selection.observe(lambda change: print(change))
    trace.selection.update(token=12, layer=3)     # one call for both fields
    stop()                                        # no longer called
"""

from collections.abc import Callable

FIELDS = ("token", "layer", "head", "expert")


class Selection:
    """The four selected indices; ``None`` means nothing of that kind is selected.

    Assigning a field, or :meth:`update` for several at once, calls every observer with a dict
    ``{field: (old, new)}`` of the values that differ. Setting the same value again calls nobody, so
    two views that copy each other's fields do not loop.

    Raises AttributeError for other fields.
    """

    __slots__ = ("_observers", "_values")

    def __init__(self, token=None, layer=None, head=None, expert=None):
        self._values = dict.fromkeys(FIELDS)
        self._observers: list[Callable[[dict], None]] = []
        self.update(token=token, layer=layer, head=head, expert=expert)

    def update(self, **fields: int | None) -> dict:
        """Set several fields; returns ``{field: (old, new)}`` of those that changed.

        Raises AttributeError for a field that no selection has, TypeError or ValueError for a value
        that is no number.
        """
        unknown = set(fields) - set(FIELDS)
        if unknown:
            raise AttributeError(f"a selection has {', '.join(FIELDS)}; not {sorted(unknown)}")
        changed = {}
        for name, value in fields.items():
            value = None if value is None else int(value)
            if self._values[name] != value:
                changed[name] = (self._values[name], value)
                self._values[name] = value
        if changed:
            for observer in tuple(self._observers):
                observer(changed)
        return changed

    def clear(self) -> dict:
        """Select nothing."""
        return self.update(**dict.fromkeys(FIELDS))

    def observe(self, observer: Callable[[dict], None]) -> Callable[[], None]:
        """Call ``observer(changes)`` at every change; returns a function that stops it."""
        self._observers.append(observer)

        def stop():
            if observer in self._observers:
                self._observers.remove(observer)

        return stop

    def as_dict(self) -> dict[str, int | None]:
        """The four fields as a dict."""
        return dict(self._values)

    def __getattr__(self, name):
        if name in FIELDS:
            return self._values[name]
        raise AttributeError(f"a selection has {', '.join(FIELDS)}; not {name!r}")

    def __setattr__(self, name, value):
        if name in FIELDS:
            self.update(**{name: value})
        else:
            object.__setattr__(self, name, value)

    def __repr__(self):
        inner = ", ".join(f"{k}={v}" for k, v in self._values.items() if v is not None)
        return f"Selection({inner})"
