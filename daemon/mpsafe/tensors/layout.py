# SPDX-License-Identifier: Apache-2.0
"""Which tensors lie where in a region: what `hold` and `load` write beside it, and `attach` checks.

JSON: {"tensors": {name: {"dtype", "shape", "offset"}}}; offsets in bytes, each tensor row-major and
aligned to ALIGNMENT. Names that share a tensor have the same offset.
"""

from collections.abc import Iterable
from math import prod
from typing import Annotated, Final

import msgspec
import torch

from mpsafe.errors import ContentsChanged
from mpsafe.vault import Region

__all__ = ["ALIGNMENT", "Layout", "Place", "dtype_name"]

ALIGNMENT: Final = 256

_Natural = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]


class Place(msgspec.Struct, frozen=True):
    """One tensor: what of, of which shape, and at which byte of the region."""

    dtype: Annotated[str, msgspec.Meta(max_length=32)]
    shape: Annotated[tuple[_Natural, ...], msgspec.Meta(max_length=16)]
    offset: _Natural

    @property
    def nbytes(self) -> int:
        """What it takes. ValueError for a dtype that torch does not have."""
        return prod(self.shape) * self.torch_dtype.itemsize

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself. ValueError where torch has none of that name."""
        found = getattr(torch, self.dtype, None)
        if not isinstance(found, torch.dtype):
            raise ValueError(f"torch has no dtype {self.dtype}")
        return found

    def of(self, data: torch.Tensor) -> torch.Tensor:
        """The tensor in the bytes of its region."""
        return data[self.offset : self.offset + self.nbytes].view(self.torch_dtype).view(self.shape)


class Layout(msgspec.Struct, frozen=True):
    """All tensors of a region by name."""

    tensors: dict[str, Place]

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, object, str, tuple[int, ...]]]) -> "Layout":
        """Places for (name, identity, dtype, shape), one behind the other; what has the same identity has one place."""
        places: dict[str, Place] = {}
        known: dict[object, Place] = {}
        end = 0
        for name, identity, dtype, shape in tensors:
            if identity not in known:
                known[identity] = Place(dtype, shape, end)
                end = -(-(end + known[identity].nbytes) // ALIGNMENT) * ALIGNMENT
            places[name] = known[identity]
        return cls(places)

    @classmethod
    def read(cls, region: Region) -> "Layout":
        """That of a region. ContentsChanged where there is none, or it tells of what the region has not."""
        try:
            layout = msgspec.json.decode(region.layout, type=cls)
            for name, place in layout.tensors.items():
                if place.offset + place.nbytes > region.nbytes or place.offset % ALIGNMENT:
                    raise ValueError(f"{name} at {place.offset}, {place.nbytes} bytes of {region.nbytes}")
        except (msgspec.DecodeError, ValueError) as error:
            raise ContentsChanged(region.info.id, "a layout of tensors inside of it", str(error)) from error
        return layout

    @property
    def nbytes(self) -> int:
        """What all of them take."""
        return max((place.offset + place.nbytes for place in self.tensors.values()), default=0)

    def encoded(self) -> bytes:
        """As it is written beside the region."""
        return msgspec.json.encode(self)


def dtype_name(dtype: torch.dtype) -> str:
    """Torch's own name of a dtype, without the module."""
    return str(dtype).removeprefix("torch.")
