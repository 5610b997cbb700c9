"""The kinds of layers ncnn knows: their number in a binary file, and their parameters by name, number and default."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

from crossfade.clip import UserError
from crossfade.ncnn.graph import Graph, Layer, Value

# ncnn's own order, which is the number of a kind in a binary file
NUMBERED = (
    *("AbsVal", "ArgMax", "BatchNorm", "Bias", "BNLL", "Concat", "Convolution", "Crop", "Deconvolution", "Dropout", "Eltwise", "ELU"),
    *("Embed", "Exp", "Flatten", "InnerProduct", "Input", "Log", "LRN", "MemoryData", "MVN", "Pooling", "Power", "PReLU", "Proposal"),
    *("Reduction", "ReLU", "Reshape", "ROIPooling", "Scale", "Sigmoid", "Slice", "Softmax", "Split", "SPP", "TanH", "Threshold", "Tile"),
    *("RNN", "LSTM", "BinaryOp", "UnaryOp", "ConvolutionDepthWise", "Padding", "Squeeze", "ExpandDims", "Normalize", "Permute", "PriorBox"),
    *("DetectionOutput", "Interp", "DeconvolutionDepthWise", "ShuffleChannel", "InstanceNorm", "Clip", "Reorg", "YoloDetectionOutput"),
    *("Quantize", "Dequantize", "Yolov3DetectionOutput", "PSROIPooling", "ROIAlign", "Packing", "Requantize", "Cast", "HardSigmoid"),
    *("SELU", "HardSwish", "Noop", "PixelShuffle", "DeepCopy", "Mish", "StatisticsPooling", "Swish", "Gemm", "GroupNorm", "LayerNorm"),
    *("Softplus", "GRU", "MultiHeadAttention", "GELU", "Convolution1D", "Pooling1D", "ConvolutionDepthWise1D", "Convolution3D"),
    *("ConvolutionDepthWise3D", "Pooling3D", "MatMul", "Deconvolution1D", "DeconvolutionDepthWise1D", "Deconvolution3D"),
    *("DeconvolutionDepthWise3D", "Einsum", "DeformableConv2D", "GLU", "Fold", "Unfold", "GridSample", "CumulativeSum", "CopyTo"),
    *("Erf", "Diag", "CELU", "Shrink", "RMSNorm", "Spectrogram", "InverseSpectrogram", "Flip", "SDPA", "RotaryEmbed"),
)

_LINE = "0 num_output=0, 1 kernel_w=0, 2 dilation_w=1, 3 stride_w=1, 4 pad_left=0, 5 bias_term=0, 6 weight_data_size=0, "
_LINE += "9 activation_type=0, 10 activation_params=[float], 15 pad_right=pad_left"
_PLANE = _LINE + ", 11 kernel_h=kernel_w, 12 dilation_h=dilation_w, 13 stride_h=stride_w, 14 pad_top=pad_left, 16 pad_bottom=pad_top"
_CONVOLUTION = _PLANE + ", 8 int8_scale_term=0, 17 impl_type=0, 18 pad_value=0.0, 19 dynamic_weight=0"
_CONVOLUTION_1D = _LINE + ", 18 pad_value=0.0, 19 dynamic_weight=0"
_DECONVOLUTION = _PLANE + ", 18 output_pad_right=0, 19 output_pad_bottom=output_pad_right, 20 output_w=0, 21 output_h=output_w, "
_DECONVOLUTION += "28 dynamic_weight=0"
_POOLING_1D = "0 pooling_type=0, 1 kernel_w=0, 2 stride_w=1, 3 pad_left=0, 4 global_pooling=0, 5 pad_mode=0, "
_POOLING_1D += "6 avgpool_count_include_pad=0, 7 adaptive_pooling=0, 8 out_w=0, 14 pad_right=pad_left"
_POOLING = _POOLING_1D + ", 11 kernel_h=kernel_w, 12 stride_h=stride_w, 13 pad_top=pad_left, 15 pad_bottom=pad_top, 18 out_h=out_w"
_GROUPED = ", 7 group=1"
_EXTENTS = "0 w=0, 1 h=0, 11 d=0, 2 c=0"
_SLOPES = "0 alpha=0.2, 1 beta=0.5"

# number name=default; a default that is a name is that parameter's value; [int] and [float] are arrays, empty unless said; "" is a text
PARAMETERS = {
    "AbsVal": "",
    "BatchNorm": "0 channels=0, 1 eps=0.0",
    "Bias": "0 bias_data_size=0",
    "BinaryOp": "0 op_type=0, 1 with_scalar=0, 2 b=0.0",
    "BNLL": "",
    "CELU": "0 alpha=1.0",
    "Clip": "0 min=-3.4028234663852886e38, 1 max=3.4028234663852886e38",
    "Concat": "0 axis=0",
    "Convolution": _CONVOLUTION + ", 7 unused_group=1",  # pnnx writes it behind a reflect Padding; ncnn ignores it
    "Convolution1D": _CONVOLUTION_1D,
    "ConvolutionDepthWise": _CONVOLUTION + _GROUPED,
    "ConvolutionDepthWise1D": _CONVOLUTION_1D + _GROUPED,
    "Crop": "0 woffset=0, 1 hoffset=0, 13 doffset=0, 2 coffset=0, 3 outw=0, 4 outh=0, 14 outd=0, 5 outc=0, 6 woffset2=0, 7 hoffset2=0, "
    "15 doffset2=0, 8 coffset2=0, 9 starts=[int], 10 ends=[int], 11 axes=[int], 19 starts_expr='', 20 ends_expr='', 21 axes_expr=''",
    "Deconvolution": _DECONVOLUTION,
    "DeconvolutionDepthWise": _DECONVOLUTION + _GROUPED,
    "Dropout": "0 scale=1.0",
    "Eltwise": "0 op_type=0, 1 coeffs=[float]",
    "ELU": "0 alpha=0.1",
    "Erf": "",
    "ExpandDims": "0 expand_w=0, 1 expand_h=0, 11 expand_d=0, 2 expand_c=0, 3 axes=[int]",
    "Flatten": "",
    "GELU": "0 fast_gelu=0",
    "GLU": "0 axis=0",
    "Gemm": "0 alpha=1.0, 1 beta=1.0, 2 transA=0, 3 transB=0, 4 constantA=0, 5 constantB=0, 6 constantC=0, 7 constantM=0, 8 constantN=0, "
    "9 constantK=0, 10 constant_broadcast_type_C=0, 11 output_N1M=0, 12 output_elempack=0, 13 output_elemtype=0, 14 output_transpose=0, "
    "18 quantize_term=0, 20 constant_TILE_M=0, 21 constant_TILE_N=0, 22 constant_TILE_K=0",
    "GroupNorm": "0 group=1, 1 channels=0, 2 eps=0.001, 3 affine=1",
    "HardSigmoid": _SLOPES,
    "HardSwish": _SLOPES,
    "InnerProduct": "0 num_output=0, 1 bias_term=0, 2 weight_data_size=0, 8 int8_scale_term=0, 9 activation_type=0, "
    "10 activation_params=[float]",
    "Input": _EXTENTS,
    "InstanceNorm": "0 channels=0, 1 eps=0.001, 2 affine=1",
    "Interp": "0 resize_type=0, 1 height_scale=1.0, 2 width_scale=1.0, 3 output_height=0, 4 output_width=0, 5 dynamic_target_size=0, "
    "6 align_corner=0, 9 size_expr=''",
    "LayerNorm": "0 affine_size=0, 1 eps=0.001, 2 affine=1",
    "LRN": "0 region_type=0, 1 local_size=5, 2 alpha=1.0, 3 beta=0.75, 4 bias=1.0",
    "MatMul": "0 transB=0",
    "MemoryData": _EXTENTS + ", 21 load_type=1",
    "Mish": "",
    "MultiHeadAttention": "0 embed_dim=0, 1 num_heads=1, 2 weight_data_size=0, 3 kdim=embed_dim, 4 vdim=embed_dim, 5 attn_mask=0, "
    "6 scale=0.0, 7 kv_cache=0, 18 quantize_term=0",
    "Noop": "",
    "Padding": "0 top=0, 1 bottom=0, 2 left=0, 3 right=0, 4 type=0, 5 value=0.0, 6 per_channel_pad_data_size=0, 7 front=0, 8 behind=0",
    "Permute": "0 order_type=0",
    "PixelShuffle": "0 upscale_factor=1, 1 mode=0",
    "Pooling": _POOLING,
    "Pooling1D": _POOLING_1D,
    "Power": "0 power=1.0, 1 scale=1.0, 2 shift=0.0",
    "PReLU": "0 num_slope=0",
    "Reduction": "0 operation=0, 1 reduce_all=1, 2 coeff=1.0, 3 axes=[int], 4 keepdims=0, 5 fixbug0=0",
    "ReLU": "0 slope=0.0",
    "Reshape": "0 w=-233, 1 h=-233, 11 d=-233, 2 c=-233, 3 permute=0, 6 shape_expr='', 12 input_batch_axis=233, 13 output_batch_axis=233",
    "RMSNorm": "0 affine_size=0, 1 eps=0.001, 2 affine=1",
    "Scale": "0 scale_data_size=0, 1 bias_term=0",
    "SDPA": "5 attn_mask=0, 6 scale=0.0, 7 kv_cache=0, 18 int8_scale_term=0",
    "SELU": "0 alpha=1.67326324, 1 lambda=1.050700987",
    "ShuffleChannel": "0 group=1, 1 reverse=0",
    "Sigmoid": "",
    "Slice": "0 slices=[int], 1 axis=0, 2 indices=[int]",
    "Softmax": "0 axis=0, 1 fixbug0=0",
    "Softplus": "",
    "Split": "",
    "Squeeze": "0 squeeze_w=0, 1 squeeze_h=0, 11 squeeze_d=0, 2 squeeze_c=0, 3 axes=[int]",
    "Swish": "",
    "TanH": "",
    "UnaryOp": "0 op_type=0",
}
TYPES: dict[str, tuple[type, type | None]] = {"[int]": (tuple, int), "[float]": (tuple, float), "''": (str, None)}


class Parameter(NamedTuple):
    """A parameter's name, the type of its value (`of`: of the elements of an array), and its default, or (`like`) whose value that is."""

    name: str
    type: type
    of: type | None
    default: Value
    like: str | None


@cache
def parameters(kind: str) -> dict[int, Parameter]:
    """The parameters of a kind of layer by number; of an unknown kind, none."""
    found: dict[int, Parameter] = {}
    for entry in filter(None, PARAMETERS.get(kind, "").split(", ")):
        number, rest = entry.split(" ", 1)
        name, default = rest.split("=")
        found[int(number)] = _parameter(name, default, {parameter.name: parameter for parameter in found.values()})
    return found


def _parameter(name: str, default: str, before: dict[str, Parameter]) -> Parameter:
    if default in before:
        return before[default]._replace(name=name, like=default)
    if default in TYPES:
        kind, of = TYPES[default]
        return Parameter(name, kind, of, kind(), None)
    number = float(default) if set(default) & set(".e") else int(default)
    return Parameter(name, type(number), None, number, None)


def known(kind: str) -> bool:
    return kind in PARAMETERS


def by_name(layer: Layer) -> dict[str, Value]:
    """What the file says of a layer, by name; a number without a name stays a number."""
    names = parameters(layer.kind)
    return {names[number].name if number in names else str(number): value for number, value in layer.numbers.items()}


def complete(graph: Graph, layer: Layer) -> SimpleNamespace:
    """Every parameter of a layer by name, with defaults; UserError where one has no name here or is of another type."""
    names, found = parameters(layer.kind), {}
    if strange := sorted(set(layer.numbers) - set(names)):
        raise UserError(f"{graph.where(layer)}: has the parameter {strange[0]}, which is not known of a {layer.kind}")
    for number, parameter in names.items():
        default = found[parameter.like] if parameter.like else parameter.default
        found[parameter.name] = _typed(graph, layer, parameter, layer.numbers[number]) if number in layer.numbers else default
    return SimpleNamespace(**found)


def _typed(graph: Graph, layer: Layer, parameter: Parameter, value: Value) -> Value:
    if parameter.type is tuple:
        elements = value if isinstance(value, tuple) else (value,)
        if all(_fits(element, parameter.of) for element in elements):
            return tuple(float(element) if parameter.of is float else element for element in elements)  # pyright: ignore[reportReturnType]
    elif _fits(value, parameter.type):
        return float(value) if parameter.type is float else value  # pyright: ignore[reportArgumentType]
    called = {int: "an integer", float: "a number with a point, such as 6.0", str: "a text", tuple: "a list of numbers"}
    raise UserError(f"{graph.where(layer)}: {parameter.name} is {value!r}, but has to be {called[parameter.type]}")


def _fits(value: Value, wanted: type | None) -> bool:
    """ncnn takes the bits of a number as they are: 6 for 6.0 would be 8e-45; only 0 is 0.0."""
    return isinstance(value, wanted or object) or (wanted is float and value == 0 and not isinstance(value, str | tuple))
