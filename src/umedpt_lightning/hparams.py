"""Hyper-parameters: the arguments that a block or a task was built with, so that a saved model can be built again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar


class HParamsMixin:
    """Keeps the arguments of its constructor, as Lightning's ``save_hyperparameters`` does.

    Attributes:
        hparams: Every argument of the constructor by its name, defaults included.
        hparams_ignored: Names of arguments that are left out, because they matter only while the object is built.
    """

    hparams: dict[str, Any]
    hparams_ignored: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Records the arguments; here, so that subclasses need not think of it."""
        self = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        try:
            bound = signature.bind_partial(self, *args, **kwargs)  # partial: a copy is made without arguments
        except TypeError:  # the constructor says it next, with its name
            return self
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])  # without self
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments |= arguments.pop(name, {})
        self.hparams = {name: value for name, value in arguments.items() if name not in cls.hparams_ignored}
        return self


T = TypeVar("T")


def create(cls: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """An object of a class, which keeps its keyword arguments as `hparams` where the class does not do so itself."""
    made: Any = cls(*args, **kwargs)
    if not hasattr(made, "hparams"):
        made.hparams = kwargs
    return made  # type: ignore[no-any-return]
