"""The talking-face network's .param, line by line as the reference describes the file of the phone models; nothing of ours is in it."""

from __future__ import annotations

from collections import Counter

from crossfade.ncnn.graph import Graph, Layer, Value

BLOCKS = (  # in, expand, out, stride
    *((16, 96, 24, 2), (24, 144, 24, 1)),
    *((24, 144, 32, 2), (32, 192, 32, 1), (32, 192, 32, 1)),
    *((32, 192, 64, 2), (64, 384, 64, 1), (64, 384, 64, 1), (64, 384, 64, 1), (64, 384, 96, 1), (96, 576, 96, 1), (96, 576, 96, 1)),
    *((96, 576, 160, 2), (160, 960, 160, 1), (160, 960, 160, 1), (160, 960, 320, 1)),
)
SKIPPED = (1, 4, 11)  # blocks after which a level ends
UPS = ((320, 160, 256, 1536, 128), (128, 64, 96, 576, 48), (48, 24, 48, 288, 24), (24, 16, 32, 192, 16))  # in, up, joined, expand, out


class Lines:
    """Layers in the order of the file; a blob is called by the number of the layer that makes it."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []

    def add(self, kind: str, *inputs: str, output: str = "", numbers: dict[int, Value] | None = None) -> str:
        made = output or str(len(self.layers))
        self.layers.append(Layer(kind, f"{kind}_{len(self.layers)}", inputs, (made,), numbers or {}))
        return made

    def convolution(self, x: str, weights: int, out: int, kernel: int, stride: tuple[int, int], pad: int, **more: bool | int) -> str:
        """13 and 3 are the strides of rows and columns, 14 and 4 the pads, 12 and 2 the dilations, 6 the weights, 9 the ReLU in it."""
        numbers: dict[int, Value] = {0: out, 1: kernel, 11: kernel, 12: 1, 13: stride[0], 14: pad, 2: 1, 3: stride[1], 4: pad}
        numbers |= {5: int(more.get("bias", True)), 6: weights}
        numbers |= {7: int(more["group"])} if "group" in more else {}
        numbers |= {9: 1} if more.get("relu", True) else {}
        kind = "ConvolutionDepthWise" if more.get("group", 1) > 1 else "Convolution"
        return self.add(kind, x, numbers=numbers)

    def deconvolution(self, x: str, before: int, out: int, kernel: int, stride: int) -> str:
        pad = extra = int(stride == 2)
        numbers: dict[int, Value] = {0: out, 1: kernel, 11: kernel, 12: 1, 13: stride, 14: pad, 18: extra, 19: extra}
        numbers |= {2: 1, 3: stride, 4: pad, 5: 1, 6: before * out * kernel**2, 9: 1}
        return self.add("Deconvolution", x, numbers=numbers)

    def reflected(self, x: str) -> str:
        return self.add("Padding", x, numbers={0: 1, 1: 1, 2: 1, 3: 1, 4: 2})

    def block(self, x: str, before: int, wide: int, after: int, stride: int, residual: bool) -> str:
        y = self.convolution(x, before * wide, wide, 1, (1, 1), 0)
        y = self.convolution(y, wide * 9, wide, 3, (stride, stride), 1, group=wide)
        y = self.convolution(y, wide * after, after, 1, (1, 1), 0, bias=False, relu=False)
        y = self.add("ReLU", self.add("GroupNorm", y, numbers={0: 1, 1: after, 2: 1e-5, 3: 1}))
        return self.add("BinaryOp", x, y, numbers={0: 0}) if residual else y


def drawn() -> Graph:
    """The 165 layers. The two convolutions behind a Padding say 7=1, as those of the phone models do."""
    lines = Lines()
    audio = lines.add("Input", output="audio", numbers={0: 256, 1: 20, 2: 1})
    face = lines.add("Input", output="face", numbers={0: 160, 1: 160, 2: 6})
    sound, maps = _sound(lines, audio), [_stem(lines, face)]
    x = maps[0]
    for number, (before, wide, after, stride) in enumerate(BLOCKS):
        x = lines.block(x, before, wide, after, stride, before == after and stride == 1)
        maps += [x] if number in SKIPPED else []
    x = lines.convolution(x, 320 * 320, 320, 1, (1, 1), 0)
    up = lines.deconvolution(sound, 128, 320, 1, 1)
    x = lines.block(lines.add("Concat", x, up, numbers={0: 0}), 640, 3840, 320, 1, False)
    for before, after, joined, wide, out in UPS:
        up = lines.deconvolution(x, before, after, 3, 2)
        x = lines.block(lines.add("Concat", maps.pop(), up, numbers={0: 0}), joined, wide, out, 1, False)
    x = lines.reflected(lines.deconvolution(x, 16, 8, 3, 2))
    lines.add("TanH", lines.convolution(x, 8 * 3 * 9, 3, 3, (1, 1), 0, relu=False, group=1), output="output")
    return Graph("the reference", tuple(_with_splits(lines.layers)))


def _sound(lines: Lines, x: str) -> str:
    x = lines.convolution(x, 1 * 16 * 9, 16, 3, (1, 2), 0)
    x = _residual(lines, lines.convolution(x, 16 * 32 * 9, 32, 3, (1, 2), 0), 32)
    x = lines.convolution(x, 32 * 64 * 9, 64, 3, (1, 2), 1)
    x = lines.convolution(x, 64 * 128 * 9, 128, 3, (1, 2), 1)
    x = lines.convolution(x, 128 * 128 * 9, 128, 3, (2, 2), 1)
    return _residual(lines, lines.convolution(x, 128 * 128 * 9, 128, 3, (2, 2), 2), 128)


def _residual(lines: Lines, x: str, channels: int) -> str:
    y = lines.convolution(x, channels * channels * 9, channels, 3, (1, 1), 1, relu=False)
    return lines.add("ReLU", lines.add("BinaryOp", y, x, numbers={0: 0}))


def _stem(lines: Lines, face: str) -> str:
    x = lines.convolution(lines.reflected(face), 6 * 16 * 9, 16, 3, (1, 1), 0, group=1)
    x = lines.convolution(x, 16 * 32 * 9, 32, 3, (2, 2), 1)
    x = lines.convolution(x, 32 * 9, 32, 3, (1, 1), 1, group=32)
    return lines.convolution(x, 32 * 16, 16, 1, (1, 1), 0)


def _with_splits(layers: list[Layer]) -> list[Layer]:
    """ncnn has a Split behind every blob that is taken more than once."""
    taken, found = Counter(blob for layer in layers for blob in layer.inputs), []
    left = {blob: list(range(count)) for blob, count in taken.items() if count > 1}
    for layer in layers:
        inputs = tuple(f"{blob}.{left[blob].pop()}" if blob in left else blob for blob in layer.inputs)
        found.append(Layer(layer.kind, layer.name, inputs, layer.outputs, layer.numbers))
        (blob,) = layer.outputs
        if blob in left:
            found.append(Layer("Split", f"Split_{blob}", (blob,), tuple(f"{blob}.{number}" for number in left[blob])))
    return found
