# SPDX-License-Identifier: Apache-2.0
"""A module's parameters and buffers in an immutable region, and another module over the same bytes."""

import contextlib
from collections.abc import Iterator
from typing import Self

import torch
from torch import nn

from mpsafe.errors import ModelDiffers
from mpsafe.tensors.layout import Layout, Place, dtype_name
from mpsafe.tensors.view import bytes_of, device_of
from mpsafe.vault import Region, Vault

__all__ = ["Weights", "attach", "hold"]


class Weights:
    """A committed region of tensors, mapped here for reading. To be closed when no model uses it any more."""

    def __init__(self, region: Region, layout: Layout) -> None:
        self.region = region
        self.layout = layout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps the region here: a model that still uses it faults on the next access."""
        self.region.close()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Each by its name, over the region itself. They can be read and not written."""
        data = bytes_of(self.region)
        return {name: place.of(data) for name, place in self.layout.tensors.items()}


def hold(vault: Vault, name: str, module: nn.Module) -> Weights:
    """Moves a module's parameters and buffers into a new immutable region, and commits it.

    The module uses the region from then on: it needs the device's memory once, if it was loaded into the host's. What
    it shared it still shares. Its parameters want no gradient any more, and whoever writes to one faults.
    """
    own = list(_tensors(module))
    if (meta := next((key for key, one in own if one.is_meta), None)) is not None:
        raise ValueError(f"{meta} is on the meta device: it has no values to hold")
    layout = Layout.of((key, (one.data_ptr(), one.shape, one.stride()), *_form(one)) for key, one in own)
    with contextlib.ExitStack() as undo:
        region = undo.enter_context(vault.create(name, "immutable", layout.nbytes, layout=layout.encoded()))
        undo.callback(vault.release, region)
        filled = bytes_of(region)
        for key, one in own:
            layout.tensors[key].of(filled).copy_(one.detach())
        del filled
        region.commit()
        weights = Weights(region, layout)
        _assign(module, weights)
        undo.pop_all()
        return weights


def attach(vault: Vault, name: str, module: nn.Module, *, verify: bool = True) -> Weights:
    """Has a module use the tensors of a region, made of a module of the same class, or of its safetensors files.

    The module may be on the meta device. Raises ModelDiffers, with the module as it was, for the first parameter that
    the region has otherwise or not at all, and what `Vault.open` does; `verify` reads all of the region once.
    """
    with contextlib.ExitStack() as undo:
        region = undo.enter_context(vault.open(name, verify=verify))
        weights = Weights(region, Layout.read(region))
        _check(module, weights)
        _assign(module, weights)
        undo.pop_all()
        return weights


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """All parameters and buffers by all of their names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _form(tensor: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    return dtype_name(tensor.dtype), tuple(tensor.shape)


def _check(module: nn.Module, weights: Weights) -> None:
    """Names only where they differ; a parameter that is tied to one that is there need not be there by its own name."""
    there = weights.layout.tensors
    own = dict(_tensors(module))
    region = weights.region.info.name
    for key, place in there.items():
        if key not in own:
            raise ModelDiffers(region, key, "no such tensor", _told(place))
        dtype, shape = _form(own[key])
        if shape != place.shape or (dtype != place.dtype and not own[key].is_meta):
            raise ModelDiffers(region, key, f"{dtype} of shape {list(shape)}", _told(place))
    given = {id(own[key]) for key in there}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for key, one in own.items():
        if key not in there and id(one) not in given and (key in parameters or one.is_meta):
            raise ModelDiffers(region, key, f"{_form(one)[0]} of shape {list(one.shape)}", "no such tensor")


def _told(place: Place) -> str:
    return f"{place.dtype} of shape {list(place.shape)}"


def _assign(module: nn.Module, weights: Weights) -> None:
    """Every name that had a tensor of the region's has the region's, and what shared one still does.

    Buffers that no checkpoint has follow to the region's device.
    """
    fresh = weights.tensors()
    own = dict(_tensors(module))
    parameters = {key for key, _ in module.named_parameters(remove_duplicate=False)}
    made: dict[Place, nn.Parameter] = {}
    of_old = {id(own[key]): key for key in weights.layout.tensors}
    for key, one in own.items():
        source = key if key in fresh else of_old.get(id(one))
        parent, _, leaf = key.rpartition(".")
        owner = module.get_submodule(parent)
        if source is None:
            owner._buffers[leaf] = one.to(device_of(weights.region.context))
        elif key in parameters:
            place = weights.layout.tensors[source]
            if place not in made:
                made[place] = nn.Parameter(fresh[source], requires_grad=False)
            owner._parameters[leaf] = made[place]
        else:
            owner._buffers[leaf] = fresh[source]
