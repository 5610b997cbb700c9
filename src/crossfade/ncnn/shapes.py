"""Layers that move values without changing them. ncnn counts axes without the batch: its axis 0 is PyTorch's axis 1."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from crossfade.ncnn.activations import Operation
from crossfade.ncnn.convolutions import Arrays

LAST = 2147483647  # in Crop's ends: to the end
REST = -233
# order_type of Permute: whence each axis comes, the innermost first
ORDERS = {
    2: ("WH", "HW"),
    3: ("WHC", "HWC", "WCH", "CWH", "HCW", "CHW"),
    4: (
        *("WHDC", "HWDC", "WDHC", "DWHC", "HDWC", "DHWC", "WHCD", "HWCD", "WCHD", "CWHD", "HCWD", "CHWD"),
        *("WDCH", "DWCH", "WCDH", "CWDH", "DCWH", "CDWH", "HDCW", "DHCW", "HCDW", "CHDW", "DCHW", "CDHW"),
    ),
}
AXES = {1: "W", 2: "HW", 3: "CHW", 4: "CDHW"}  # of a blob of so many axes, the outermost first


def outer(axis: int, dims: int, what: str = "axis") -> int:
    """ncnn's axis (negative ones from the end) of a blob of `dims` axes -> PyTorch's, after the batch."""
    if not -dims <= axis < dims:
        raise ValueError(f"{what} is {axis}, but the blob has {dims} axes")
    return axis % dims + 1


class Memory(nn.Module):
    """A tensor of the network's own, learned like any weight. () -> (1, …)."""

    def __init__(self, p: SimpleNamespace, arrays: Arrays):
        super().__init__()
        self.data = nn.Parameter(arrays["data"])

    def forward(self) -> Tensor:
        return torch.stack([self.data])  # a copy: what counts multiply-adds does not follow a view of a parameter


def reshape(p: SimpleNamespace) -> nn.Module:
    """0 keeps an extent, -1 is what remains, -233 is no axis; `permute` (older files) reads and writes channels last."""
    if p.shape_expr or p.input_batch_axis != 233 or p.output_batch_axis != 233:
        raise ValueError("computes its shape by an expression or moves the batch, which is not supported")
    wanted = {name: size for name, size in zip("CDHW", (p.c, p.d, p.h, p.w), strict=True) if size != REST}
    if "".join(wanted) not in AXES.values():
        raise ValueError("w, h, d and c have to be given from w on")

    def reshaped(x: Tensor) -> Tensor:
        have = dict(zip(AXES[x.dim() - 1], x.shape[1:], strict=True))
        sizes = [have.get(name, 1) if size == 0 else size for name, size in wanted.items()]
        if not p.permute:
            return x.reshape(x.shape[0], *sizes)
        return _last_to_first(
            _first_to_last(x).reshape(x.shape[0], *sizes[1:], sizes[0]) if len(sizes) > 2 else _first_to_last(x).reshape(x.shape[0], *sizes)
        )

    return Operation(reshaped)


def _first_to_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1) if x.dim() > 3 else x


def _last_to_first(x: Tensor) -> Tensor:
    return x.movedim(-1, 1) if x.dim() > 3 else x


def permute(p: SimpleNamespace) -> nn.Module:
    def permuted(x: Tensor) -> Tensor:
        orders, have = ORDERS.get(x.dim() - 1, ("W",)), AXES[x.dim() - 1]
        if not 0 <= p.order_type < len(orders):
            raise ValueError(f"order_type is {p.order_type}, but a blob of {x.dim() - 1} axes has {len(orders)} orders")
        return x.permute(0, *(have.index(name) + 1 for name in reversed(orders[p.order_type])))

    return Operation(permuted)


def flatten() -> nn.Module:
    return nn.Flatten()


def concat(p: SimpleNamespace) -> nn.Module:
    return Operation(lambda *inputs: torch.cat(inputs, outer(p.axis, inputs[0].dim() - 1)))


def split(outputs: int) -> nn.Module:
    return Operation(lambda x: [x] * outputs)


def passed_on(outputs: int) -> nn.Module:
    """Noop: every input is an output."""
    return Operation(lambda *inputs: list(inputs[:outputs]))


def slices(p: SimpleNamespace, outputs: int) -> nn.Module:
    """Parts one after another along an axis; -233 shares what is left equally; `indices` say where to cut instead."""

    def cut(x: Tensor) -> list[Tensor]:
        axis = outer(p.axis, x.dim() - 1)
        return list(x.split(_by_indices(x.shape[axis]) if p.indices else _by_sizes(x.shape[axis]), axis))

    def _by_indices(size: int) -> list[int]:
        ends = [index + size if index < 0 else index for index in p.indices] + [size]
        return [end - start for start, end in zip([0, *ends], ends, strict=False)][:outputs]

    def _by_sizes(size: int) -> list[int]:
        sizes: list[int] = []
        for number, part in enumerate(p.slices):
            sizes.append((size - sum(sizes)) // (outputs - number) if part == REST else part)
        if sum(sizes) > size:
            raise ValueError(f"takes slices of {sizes} from {size}")
        return [*sizes, *([size - sum(sizes)] if sum(sizes) < size else [])]

    if len(p.slices) != outputs and len(p.indices) != outputs - 1:
        raise ValueError(f"has {outputs} outputs, but slices of {len(p.slices)} sizes")
    return Operation(lambda x: cut(x)[:outputs])


def crop(p: SimpleNamespace) -> nn.Module:
    """By starts and ends on axes; or by offsets and sizes (-233 = the rest, less offset2); or like a second input."""
    if p.starts_expr or p.ends_expr or p.axes_expr:
        raise ValueError("computes what to cut by an expression, which is not supported")
    offsets = {"W": (p.woffset, p.outw, p.woffset2), "H": (p.hoffset, p.outh, p.hoffset2)}
    offsets |= {"D": (p.doffset, p.outd, p.doffset2), "C": (p.coffset, p.outc, p.coffset2)}

    def cut(x: Tensor, *like: Tensor) -> Tensor:
        if p.starts:
            return _by_axes(x)
        names = AXES[x.dim() - 1]
        wanted = dict(zip(AXES[like[0].dim() - 1], like[0].shape[1:], strict=True)) if like else {}
        for axis, name in enumerate(names, 1):
            start, size, after = offsets[name]
            size = wanted.get(name, REST) if like else size
            end = x.shape[axis] - after if size in (REST, 0) else start + size
            x = x.narrow(axis, start, end - start)
        return x

    def _by_axes(x: Tensor) -> Tensor:
        for number, (start, end) in enumerate(zip(p.starts, p.ends, strict=True)):
            axis = outer(p.axes[number] if p.axes else number, x.dim() - 1)
            size = x.shape[axis]
            start, end = (min(max(value + size if value < 0 else value, 0), size) for value in (start, size if end == REST else end))
            x = x.narrow(axis, start, end - start)
        return x

    if len(p.starts) != len(p.ends) or (p.axes and len(p.axes) != len(p.starts)):
        raise ValueError("starts, ends and axes have to be equally many")
    return Operation(cut)


def squeeze(p: SimpleNamespace) -> nn.Module:
    flags = {"W": p.squeeze_w, "H": p.squeeze_h, "D": p.squeeze_d, "C": p.squeeze_c}

    def squeezed(x: Tensor) -> Tensor:
        dims = x.dim() - 1
        axes = [outer(axis, dims) for axis in p.axes] if p.axes else [axis for axis, name in enumerate(AXES[dims], 1) if flags[name]]
        axes = [axis for axis in axes if x.shape[axis] == 1]
        return x.squeeze(axes) if len(axes) < dims else x.flatten(1)

    return Operation(squeezed)


def expand_dims(p: SimpleNamespace) -> nn.Module:
    """New axes of size 1, counted in the result; the older flags name a blob's axes after the change."""
    flags = {"W": p.expand_w, "H": p.expand_h, "D": p.expand_d, "C": p.expand_c}

    def expanded(x: Tensor) -> Tensor:
        dims = x.dim() - 1
        if not p.axes:
            dims += sum(map(bool, flags.values()))
            axes = [axis for axis, name in enumerate(AXES[dims], 1) if flags[name]]
        else:
            axes = sorted(outer(axis, dims + len(p.axes)) for axis in p.axes)
        for axis in axes:
            x = x.unsqueeze(axis)
        return x

    return Operation(expanded)


def pixel_shuffle(p: SimpleNamespace) -> nn.Module:
    """Mode 0 is PyTorch's order of channels; in mode 1 the place within the block varies slower than the channel."""
    factor = p.upscale_factor
    if not p.mode:
        return nn.PixelShuffle(factor)

    def shuffled(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        parts = x.reshape(batch, factor, factor, channels // factor**2, height, width)
        return parts.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // factor**2, height * factor, width * factor)

    return Operation(shuffled)


def shuffle_channel(p: SimpleNamespace) -> nn.Module:
    def shuffled(x: Tensor) -> Tensor:
        group = x.shape[1] // p.group if p.reverse else p.group
        return x.unflatten(1, (group, -1)).transpose(1, 2).flatten(1, 2)

    return Operation(shuffled)
