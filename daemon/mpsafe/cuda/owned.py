# SPDX-License-Identifier: Apache-2.0
"""What belongs to the driver and has to be given back."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, Self

from typing_extensions import override

from mpsafe.cuda.driver import Driver

__all__ = ["Handle", "Owned"]


class Owned(ABC):
    """Something that `close` gives back, and the end of its `with` block.

    After an error that ends the context, closing is silent: nothing can be given back any more, and
    the error that was raised inside the block stays the one that is seen (`Driver.undo`).
    """

    @abstractmethod
    def close(self) -> None:
        """Give it back; twice is once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Handle(Owned):
    """Something that the driver knows by a handle, and the call that gives it back."""

    undo: ClassVar[str]

    def __init__(self, driver: Driver, handle: object) -> None:
        self.driver = driver
        self._handle: object | None = handle

    @property
    def handle(self) -> object:
        """The driver's own handle; ValueError once closed."""
        if self._handle is None:
            raise ValueError(f"this {type(self).__name__} is closed")
        return self._handle

    @override
    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self.driver.undo(self.undo, handle)
