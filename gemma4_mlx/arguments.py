"""What is called or made with the wrong arguments says which it takes."""

import functools
import inspect


def say_arguments(error: type[Exception]):
    """A class decorator: wrong arguments raise ``error`` with the names that the class takes, in
    place of a TypeError about ``__init__()``."""

    def decorated(cls):
        make, signature = cls.__init__, inspect.signature(cls)
        names = ", ".join(
            name if parameter.default is parameter.empty else f"[{name}]"
            for name, parameter in signature.parameters.items()
        )

        @functools.wraps(make)
        def checked(self, *arguments, **named):
            try:
                signature.bind(*arguments, **named)
            except TypeError as problem:
                raise error(f"{cls.__name__} takes {names}: {problem}") from None
            make(self, *arguments, **named)

        cls.__init__ = checked
        return cls

    return decorated


def check_model(model, name: str, error: type[Exception], then: str = "") -> None:
    """Raise ``error`` if ``model`` is none: ``name`` takes one ``then`` something else."""
    # One within mx.compile passes on the methods, but not the modules.
    if not (hasattr(model, "observe") and hasattr(model, "language_model")):
        raise error(
            f"{name} takes a loaded model{then}, not one within mx.compile, which shows nothing of "
            f"its inside; {type(model).__name__} is no model"
        )
