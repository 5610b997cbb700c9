"""Every kind of layer of ncnn as a module against ncnn itself, from files of our own writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("ncnn")

from ncnn_reference import answers, one_layer, random_weights, written

from crossfade.clip import UserError
from crossfade.ncnn.convert import MAKERS, to_torch
from crossfade.ncnn.model import read

CONV = {"num_output": 6, "kernel_w": 3, "bias_term": 1}
DEPTH = {**CONV, "group": 2}
ATTEND = {"embed_dim": 8, "num_heads": 2}
PLANE, LINE, ROWS, CUBE = (4, 9, 11), (7,), (5, 6), (3, 4, 5, 6)


def conv(inputs: int = 4, **more: Any) -> dict[str, Any]:
    named = {**CONV, **more}
    height = named.get("kernel_h", named["kernel_w"])
    return {**named, "weight_data_size": 6 * inputs // named.get("group", 1) * named["kernel_w"] * height}


def line(inputs: int = 5, **more: Any) -> dict[str, Any]:
    named = {**CONV, **more}
    return {**named, "weight_data_size": 6 * inputs // named.get("group", 1) * named["kernel_w"]}


# kind, parameters, shapes of the inputs, number of outputs where it is not one
CASES: list[tuple[Any, ...]] = [
    ("AbsVal", {}, [PLANE]),
    *[("BatchNorm", {"channels": shape[0], "eps": 1e-3}, [shape]) for shape in (LINE, ROWS, PLANE, CUBE)],
    ("Bias", {"bias_data_size": 4}, [PLANE]),
    *[("BinaryOp", {"op_type": op}, [PLANE, PLANE]) for op in (0, 1, 2, 3, 4, 5, 7, 8, 10, 11)],
    *[("BinaryOp", {"op_type": op, "with_scalar": 1, "b": 2.5}, [PLANE]) for op in (0, 1, 2, 3, 4, 5, 7, 8, 9)],
    *[
        ("BinaryOp", {"op_type": 1}, pair)
        for pair in ([PLANE, (4, 1, 1)], [(1, 9, 1), PLANE], [PLANE, (1,)], [PLANE, (4,)], [PLANE, (4, 9)])
    ],
    *[
        ("BinaryOp", {"op_type": 1}, pair)
        for pair in ([ROWS, (5,)], [(6,), ROWS], [(3,), CUBE], [CUBE, (3, 4)], [CUBE, (3, 4, 5)], [LINE, (1,)])
    ],
    ("CELU", {"alpha": 0.7}, [PLANE]),
    ("Clip", {"min": -0.2, "max": 0.5}, [PLANE]),
    *[("Concat", {"axis": axis}, [PLANE, PLANE, PLANE]) for axis in (0, 1, 2, -1)],
    ("Concat", {"axis": 0}, [LINE, (3,)]),
    ("Convolution", conv(), [PLANE]),
    ("Convolution", conv(bias_term=0, stride_w=2, pad_left=1), [PLANE]),
    ("Convolution", conv(kernel_h=5, dilation_w=2, dilation_h=1, stride_h=3, pad_left=1, pad_top=2, pad_right=3, pad_bottom=0), [PLANE]),
    ("Convolution", conv(pad_left=1, pad_value=0.7), [PLANE]),
    *[("Convolution", conv(pad_left=pad, stride_w=2, kernel_w=4), [(4, 9, 12)]) for pad in (-233, -234)],
    *[
        ("Convolution", conv(activation_type=kind, activation_params=params), [PLANE])
        for kind, params in ((1, ()), (2, (0.2,)), (3, (-0.5, 0.5)), (4, ()), (5, ()), (6, (0.2, 0.4)))
    ],
    ("Convolution", conv(kernel_w=1), [(4,)]),
    ("ConvolutionDepthWise", conv(group=2, pad_left=1), [PLANE]),
    ("ConvolutionDepthWise", {**conv(inputs=6, group=6, stride_w=2), "activation_type": 1}, [(6, 9, 11)]),
    ("Convolution1D", line(pad_left=1, stride_w=2, dilation_w=2), [ROWS]),
    ("Convolution1D", line(pad_left=2, pad_right=0, activation_type=1), [ROWS]),
    ("ConvolutionDepthWise1D", line(inputs=6, group=3), [(6, 8)]),
    ("Crop", {"woffset": 1, "hoffset": 2, "coffset": 1, "outw": 5, "outh": 4, "outc": 2}, [PLANE]),
    ("Crop", {"woffset": 1, "hoffset": 2, "outw": -233, "outh": -233, "outc": -233, "woffset2": 2, "hoffset2": 1}, [PLANE]),
    ("Crop", {"starts": (1, 2), "ends": (3, -1), "axes": (0, 2)}, [PLANE]),
    ("Crop", {"starts": (2,), "ends": (2147483647,), "axes": (1,)}, [ROWS]),
    ("Crop", {"woffset": 1, "hoffset": 1}, [PLANE, (4, 5, 6)]),
    ("Deconvolution", conv(stride_w=2), [PLANE]),
    ("Deconvolution", conv(stride_w=2, pad_left=1, output_pad_right=1, dilation_w=2), [PLANE]),
    (
        "Deconvolution",
        conv(stride_w=2, pad_left=1, pad_right=0, pad_top=2, pad_bottom=1, activation_type=2, activation_params=(0.1,)),
        [PLANE],
    ),
    *[("Deconvolution", conv(stride_w=2, pad_left=pad, output_w=21, output_h=17), [PLANE]) for pad in (-233, -234)],
    ("DeconvolutionDepthWise", conv(group=2, stride_w=2, kernel_h=2), [PLANE]),
    ("DeconvolutionDepthWise", conv(inputs=6, group=6, stride_w=2, pad_left=1), [(6, 5, 5)]),
    ("Dropout", {}, [PLANE]),
    ("Dropout", {"scale": 0.5}, [PLANE]),
    *[("Eltwise", {"op_type": op}, [PLANE, PLANE, PLANE]) for op in (0, 1, 2)],
    ("Eltwise", {"op_type": 1, "coeffs": (0.5, -1.5)}, [PLANE, PLANE]),
    ("ELU", {"alpha": 0.3}, [PLANE]),
    ("Erf", {}, [PLANE]),
    *[("ExpandDims", {"axes": (axis,)}, [shape]) for shape in (LINE, ROWS, PLANE) for axis in (0, 1, -1)],
    *[("Flatten", {}, [shape]) for shape in (ROWS, PLANE, CUBE)],
    *[("GELU", {"fast_gelu": fast}, [PLANE]) for fast in (0, 1)],
    ("GLU", {"axis": 0}, [PLANE]),
    ("Gemm", {}, [(5, 6), (6, 7)]),
    ("Gemm", {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}, [(6, 5), (7, 6), (7,)]),
    ("Gemm", {"transB": 1, "output_transpose": 1}, [(5, 6), (7, 6)]),
    *[
        (
            "Gemm",
            {"transB": 1, "constantB": 1, "constantC": 1, "constantM": 5, "constantN": 7, "constantK": 6, "constant_broadcast_type_C": how},
            [ROWS],
        )
        for how in (-1, 0, 1, 2, 3, 4)
    ],
    ("Gemm", {"constantA": 1, "constantC": 1, "constantM": 3, "constantK": 5, "constant_broadcast_type_C": -1, "output_N1M": 1}, [ROWS]),
    *[
        ("GroupNorm", {"group": 2, "channels": 4, "affine": affine}, [shape])
        for shape, affine in (((4,), 1), ((4, 6), 1), (PLANE, 0), (PLANE, 1))
    ],
    ("HardSigmoid", {}, [PLANE]),
    ("HardSwish", {"alpha": 1 / 6}, [PLANE]),
    ("HardSwish", {"alpha": 0.3, "beta": 0.4}, [PLANE]),
    ("InnerProduct", {"num_output": 6, "bias_term": 1, "weight_data_size": 6 * 396, "activation_type": 1}, [PLANE]),
    *[("InnerProduct", {"num_output": 6, "weight_data_size": 36}, [shape]) for shape in ((6,), ROWS, (1, 6))],
    ("InstanceNorm", {"channels": 4}, [PLANE]),
    ("InstanceNorm", {"channels": 4, "affine": 0}, [PLANE]),
    *[
        ("Interp", {"resize_type": kind, "output_height": 13, "output_width": 7, "align_corner": align}, [PLANE])
        for kind, align in ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1))
    ],
    *[("Interp", {"resize_type": kind, "height_scale": 2.0, "width_scale": scale}, [PLANE]) for kind in (1, 2, 3) for scale in (1.5, 2.0)],
    ("Interp", {"resize_type": 2, "height_scale": 2.0, "width_scale": 1.5, "align_corner": 1}, [PLANE]),
    ("Interp", {"resize_type": 2, "output_height": 3, "output_width": 4}, [LINE]),
    *[("Interp", {"resize_type": kind, "output_width": 9, "output_height": 5}, [ROWS]) for kind in (1, 2, 3)],
    ("Interp", {"resize_type": 2, "dynamic_target_size": 1}, [PLANE, (1, 5, 6)]),
    *[
        ("LayerNorm", {"affine_size": size, "affine": affine}, [shape])
        for size, affine, shape in ((7, 1, LINE), (6, 1, ROWS), (11, 1, PLANE), (99, 1, PLANE), (11, 0, PLANE), (99, 0, PLANE))
    ],
    *[("LRN", {"region_type": kind, "local_size": 5, "alpha": 0.3}, [(8, 9, 11)]) for kind in (0, 1)],
    *[
        ("MatMul", {}, pair)
        for pair in ([(6,), (6,)], [(6,), (6, 4)], [(5, 6), (6,)], [(5, 6), (6, 4)], [(2, 5, 6), (2, 6, 4)], [(5, 6), (2, 6, 4)])
    ],
    *[("MatMul", {"transB": 1}, pair) for pair in ([(5, 6), (4, 6)], [(2, 5, 6), (4, 6)], [(3, 2, 5, 6), (3, 2, 4, 6)])],
    ("Mish", {}, [PLANE]),
    ("MultiHeadAttention", {**ATTEND, "weight_data_size": 64}, [(5, 8)]),
    ("MultiHeadAttention", {**ATTEND, "weight_data_size": 48, "kdim": 10, "vdim": 4, "scale": 0.3}, [(5, 6), (7, 10), (7, 4)]),
    ("MultiHeadAttention", {**ATTEND, "weight_data_size": 64}, [(5, 8), (7, 8)]),
    ("MultiHeadAttention", {**ATTEND, "weight_data_size": 64, "attn_mask": 1}, [(5, 8), (5, 5)]),
    ("MultiHeadAttention", {**ATTEND, "weight_data_size": 64, "attn_mask": 1}, [(5, 8), (7, 8), (7, 8), (2, 5, 7)]),
    *[
        ("Padding", {"top": 1, "bottom": 2, "left": 3, "right": 0, "type": kind, "value": 0.3}, [shape])
        for kind in (0, 1, 2)
        for shape in (PLANE, ROWS)
    ],
    ("Padding", {"left": 3, "right": 1, "value": 0.3}, [LINE]),
    ("Padding", {"top": 1, "bottom": 2, "left": 1, "right": 1, "per_channel_pad_data_size": 4}, [PLANE]),
    ("Padding", {"front": 1, "behind": 2, "value": 0.5}, [PLANE]),
    *[("Permute", {"order_type": order}, [PLANE]) for order in range(6)],
    *[("Permute", {"order_type": order}, [CUBE]) for order in range(24)],
    ("Permute", {"order_type": 1}, [ROWS]),
    *[("PixelShuffle", {"upscale_factor": 2, "mode": mode}, [(8, 3, 5)]) for mode in (0, 1)],
    *[("Pooling", {"pooling_type": kind, "global_pooling": 1}, [PLANE]) for kind in (0, 1)],
    *[
        (
            "Pooling",
            {"pooling_type": kind, "kernel_w": 3, "stride_w": 2, "pad_left": 1, "pad_mode": mode, "avgpool_count_include_pad": count},
            [(4, 10, 12)],
        )
        for kind, count in ((0, 0), (1, 0), (1, 1))
        for mode in (0, 1)
    ],
    *[
        ("Pooling", {"pooling_type": kind, "kernel_w": 3, "kernel_h": 2, "stride_w": 2, "pad_mode": mode}, [(4, 10, 12)])
        for kind in (0, 1)
        for mode in (2, 3)
    ],
    *[
        ("Pooling", {"pooling_type": kind, "adaptive_pooling": 1, "out_w": width, "out_h": 2}, [PLANE])
        for kind in (0, 1)
        for width in (3, -233)
    ],
    *[("Pooling1D", {"pooling_type": kind, "kernel_w": 3, "stride_w": 2, "pad_left": 1}, [(4, 10)]) for kind in (0, 1)],
    ("Pooling1D", {"pooling_type": 1, "global_pooling": 1}, [(4, 10)]),
    ("Power", {"power": 2.0, "scale": 0.5, "shift": 1.0}, [PLANE]),
    *[("PReLU", {"num_slope": number}, [shape]) for number, shape in ((1, PLANE), (4, PLANE), (5, ROWS), (7, LINE))],
    *[("Reduction", {"operation": op, "fixbug0": 1}, [PLANE]) for op in (0, 1, 2, 3, 4, 5, 6, 7, 8, 10)],
    *[
        ("Reduction", {"operation": 3, "reduce_all": 0, "axes": axes, "keepdims": keep, "coeff": 2.0, "fixbug0": 1}, [PLANE])
        for axes in ((0,), (1,), (2,), (-1, -2), (0, 1, 2))
        for keep in (0, 1)
    ],
    ("Reduction", {"operation": 4, "reduce_all": 0, "axes": (1,), "fixbug0": 1}, [ROWS]),
    *[("ReLU", {"slope": slope}, [PLANE]) for slope in (0.0, 0.1)],
    *[
        ("Reshape", named, [PLANE])
        for named in ({"w": -1}, {"w": 33, "h": -1}, {"w": -1, "h": 6, "c": 2}, {"w": 0, "h": 3, "d": -1, "c": 2})
    ],
    ("RMSNorm", {"affine_size": 6, "eps": 1e-3}, [ROWS]),
    *[("Scale", {"scale_data_size": shape[0], "bias_term": bias}, [shape]) for shape in (LINE, ROWS, PLANE) for bias in (0, 1)],
    ("Scale", {"scale_data_size": -233}, [PLANE, (4,)]),
    ("SDPA", {}, [(2, 5, 8), (2, 7, 8), (2, 7, 6)]),
    ("SDPA", {"attn_mask": 1, "scale": 0.2}, [(4, 5, 8), (2, 7, 8), (2, 7, 8), (5, 7)]),
    ("SELU", {}, [PLANE]),
    *[("ShuffleChannel", {"group": 2, "reverse": reverse}, [(6, 3, 4)]) for reverse in (0, 1)],
    ("Sigmoid", {}, [PLANE]),
    *[("Slice", {"slices": (-233, -233), "axis": axis}, [(4, 8, 10)], 2) for axis in (0, 1, 2)],
    ("Slice", {"slices": (1, 3, -233), "axis": 1}, [PLANE], 3),
    ("Slice", {"indices": (2, 5), "axis": 2}, [PLANE], 3),
    *[
        ("Softmax", {"axis": axis, "fixbug0": 1}, [shape])
        for axis, shape in ((0, LINE), (0, ROWS), (1, ROWS), (0, PLANE), (1, PLANE), (2, PLANE), (-1, PLANE))
    ],
    ("Softplus", {}, [PLANE]),
    ("Split", {}, [PLANE], 2),
    ("Noop", {}, [PLANE, ROWS], 2),
    ("BNLL", {}, [PLANE]),
    *[("Squeeze", {"axes": (axis,)}, [shape]) for axis, shape in ((0, (1, 5, 6)), (1, (5, 1, 6)), (-1, (5, 6, 1)), (0, (1, 6)))],
    ("Squeeze", {"squeeze_w": 1, "squeeze_h": 1}, [(5, 1, 1)]),
    ("Swish", {}, [PLANE]),
    ("TanH", {}, [PLANE]),
    *[("UnaryOp", {"op_type": op}, [PLANE]) for op in range(20)],
]
POSITIVE = {("UnaryOp", 5), ("UnaryOp", 6), ("UnaryOp", 8), ("UnaryOp", 17), ("BinaryOp", 6), ("BinaryOp", 9)}


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-5 * max(np.abs(theirs).max(), 1e-3)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}"[:110])
def test_a_layer_equals_ncnn(case: tuple[Any, ...], tmp_path: Path):
    kind, named, shapes = case[:3]
    outputs = case[3] if len(case) > 3 else 1
    graph = one_layer(kind, len(shapes), outputs, **named)
    param, binary = written(tmp_path, graph, random_weights(graph))
    network = to_torch(read(param, binary)).eval()
    generator = torch.Generator().manual_seed(1)
    given = {name: torch.rand(2, *shape, generator=generator) * 1.8 - 0.9 for name, shape in zip(network.inputs, shapes, strict=True)}
    if (kind, named.get("op_type")) in POSITIVE or (kind, named.get("operation")) == ("Reduction", 9):
        given = {name: x.abs() + 0.1 for name, x in given.items()}
    with torch.no_grad():
        ours = network(given)
    for place in range(2):
        theirs = answers(param, binary, {name: x[place] for name, x in given.items()}, network.outputs)
        for name in network.outputs:
            close(ours[name][place].numpy(), theirs[name])


def test_the_cases_cover_every_kind():
    assert {case[0] for case in CASES} == set(MAKERS) - {"MemoryData"}


def test_an_unknown_layer_is_named_with_its_line(tmp_path: Path):
    (tmp_path / "net.param").write_text("7767517\n2 2\nInput in 0 1 a\nTeleport beam 1 1 a b 0=3\n")
    with pytest.raises(UserError, match=r"net\.param line 4: Teleport beam: is an unknown kind of layer"):
        to_torch(read(tmp_path / "net.param"))
