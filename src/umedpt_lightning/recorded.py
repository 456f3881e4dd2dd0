"""Objects that remember what they were built with."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Self


class Recorded:
    """Keeps the arguments of its constructor, so that a model can say how it was built.

    Attributes:
        init_arguments: Every argument by its name, defaults included.
        unrecorded: Arguments that matter only while it is built, and are left out.
    """

    init_arguments: dict[str, Any]
    unrecorded: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Records the arguments; here, so that subclasses need not think of it."""
        self = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        bound = signature.bind_partial(self, *args, **kwargs)  # partial: a copy is made without arguments
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])  # without self
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments |= arguments.pop(name, {})
        self.init_arguments = {name: value for name, value in arguments.items() if name not in cls.unrecorded}
        return self
