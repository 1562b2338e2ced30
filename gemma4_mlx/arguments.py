"""Values that are made with the wrong arguments say which they take."""

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
