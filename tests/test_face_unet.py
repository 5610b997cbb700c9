"""The talking-face network: numbers and shapes of the reference, its 165 layers in ncnn, and weights from plain files and back."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossfade.clip import UserError
from crossfade.models.face_unet import PADDINGS, FaceUnet, face_unet
from crossfade.models.model import count

CENSUS = {"Input": 2, "Padding": 2, "Convolution": 55, "ConvolutionDepthWise": 22, "Deconvolution": 6, "GroupNorm": 21}
CENSUS |= {"ReLU": 21 + 2, "BinaryOp": 10 + 2, "Split": 10 + 2 + 4, "Concat": 5, "TanH": 1}
WEIGHTS, BIASES, NORMS, CONVOLUTIONS = 7_473_352, 28_739, 4_048, 83
SIZES = {"float32": 4, "float16": 2}  # bytes of a weight; biases and norms are always of 4, and a word stands before each convolution's


def inputs(size: int = 160, clips: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    audio, face = torch.randn(clips, 1, 20, 256, generator=generator), torch.rand(clips, 6, size, size, generator=generator) * 2 - 1
    return {"audio": audio, "face": face}


def lively(seed: int, size: int = 160) -> FaceUnet:
    """Values that neither die out nor grow on their way, and norms that are not as they were made."""
    torch.manual_seed(seed)
    model = face_unet(size=size).eval()
    for part in model.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        if isinstance(part, nn.GroupNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
    return model


@pytest.fixture(scope="module")
def model() -> FaceUnet:
    return lively(0)


def test_its_parameters_are_the_references(model: FaceUnet):
    decoder = [model.meet, model.up, model.last, model.picture]
    parts = [model.audio, model.stem, model.down, model.bottleneck]
    assert [count(part) for part in parts] == [549_152, 6_368, 1_795_680, 102_720]
    assert sum(map(count, decoder)) == 5_052_219 and count(model.picture) == 219 == 8 * 3 * 9 + 3
    assert count(model) == 7_506_139 == WEIGHTS + BIASES + NORMS
    kinds = {nn.Conv2d: "convolutions", nn.ConvTranspose2d: "convolutions", nn.GroupNorm: "norms"}
    sums: Counter[str] = Counter()
    for part in model.modules():
        if type(part) in kinds:
            sums.update({f"{kinds[type(part)]} {name}": value.numel() for name, value in part.named_parameters()})
    assert (sums["convolutions weight"], sums["convolutions bias"]) == (WEIGHTS, BIASES)
    assert sums["norms weight"] + sums["norms bias"] == NORMS


def stages(model: FaceUnet) -> dict[str, tuple[int, ...]]:
    """Shapes of what each named part makes of one clip, without the clip's axis; nothing is computed."""
    found: dict[str, tuple[int, ...]] = {}
    watched = {"audio", "stem", "down", "bottleneck", "meet", "up", "last", "picture"}
    for name, part in model.named_modules():
        if name.split(".")[0] in watched and name.count(".") <= 1 and not isinstance(part, nn.ModuleList):
            part.register_forward_hook(lambda _, __, made, name=name: found.update({name: tuple(made.shape[1:])}))
    model({name: x.to("meta") for name, x in inputs(model.size).items()})
    return found


def test_every_stage_has_the_references_shape():
    with torch.device("meta"):
        found = stages(face_unet())
    sound = [(16, 18, 127), (32, 16, 63), (32, 16, 63), (64, 16, 32), (128, 16, 16), (128, 8, 8), (128, 5, 5), (128, 5, 5)]
    assert [found[f"audio.{number}"] for number in range(8)] == sound and found["audio"] == (128, 5, 5)
    assert [found[f"stem.{number}"][0] for number in range(1, 5)] == [16, 32, 32, 16] and found["stem"] == (16, 80, 80)
    assert [found[f"down.{level}"] for level in range(4)] == [(24, 40, 40), (32, 20, 20), (96, 10, 10), (320, 5, 5)]
    assert found["bottleneck"] == found["meet"] == (320, 5, 5) and found["meet.up"] == (320, 5, 5)
    assert [found[f"up.{level}"] for level in range(4)] == [(128, 10, 10), (48, 20, 20), (24, 40, 40), (16, 80, 80)]
    assert found["last"] == (8, 160, 160) and found["picture"] == (3, 160, 160)


@pytest.mark.parametrize("size", PADDINGS)
def test_the_sounds_map_is_as_large_as_the_faces_deepest(size: int):
    with torch.device("meta"):
        model = face_unet(size=size)
        found = stages(model)
    side = size // 32
    assert found["audio"] == (128, side, side) and found["bottleneck"] == (320, side, side) and found["picture"] == (3, size, size)
    assert count(model) == 7_506_139


def test_paddings_are_all_that_fit():
    """Two 3 × 3 convolutions of stride 2 on 16 × 16; a window of nothing but zeros, from a padding of 3 on, would say nothing."""

    def halved(side: int, padding: int) -> int:
        return (side + 2 * padding - 3) // 2 + 1

    found = {32 * halved(halved(16, fifth), sixth) for fifth in range(3) for sixth in range(3)}
    assert found == set(PADDINGS) == {32 * halved(halved(16, fifth), sixth) for fifth, sixth in PADDINGS.values()}


@pytest.mark.parametrize("size", [0, 64, 100, 159, 224, 256])
def test_other_sizes_are_refused(size: int):
    with pytest.raises(UserError, match=f"size is {size}, but has to be one of 96, 128, 160, 192"):
        face_unet(size=size)


def test_inputs_of_other_shapes_are_refused(model: FaceUnet):
    given = inputs()
    with pytest.raises(UserError, match=r"audio is \(1, 1, 256, 20\), but has to be \(B, 1, 20, 256\)"):
        model({**given, "audio": given["audio"].mT})
    with pytest.raises(UserError, match=r"face is \(1, 6, 128, 128\), but has to be \(B, 6, 160, 160\)"):
        model({**given, "face": given["face"][..., :128, :128]})


@torch.no_grad()
def test_weights_of_one_size_fit_another(model: FaceUnet):
    other = face_unet(size=128)
    other.load_state_dict(model.state_dict())
    assert other(inputs(128))["output"].shape == (1, 3, 128, 128)


def test_clips_are_apart_and_everything_learns():
    model, given = lively(2, 96), inputs(96, clips=2)
    before = copy.deepcopy(given)
    output = model(given)["output"]
    assert all(torch.equal(given[name], before[name]) for name in given), "nothing is written into the inputs"
    alone = model({name: x[1:] for name, x in given.items()})["output"]
    torch.testing.assert_close(output[1:], alone, atol=1e-5, rtol=1e-4)
    unheard = model({**given, "audio": given["audio"].flip(0)})["output"]
    assert (unheard - output).abs().mean() > 1e-3 and output.abs().max() < 1
    output.square().mean().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in model.parameters())


@pytest.fixture(scope="module")
def exported(model: FaceUnet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("pnnx")
    from crossfade.deploy.ncnn_export import export

    folder = tmp_path_factory.mktemp("face")
    return {storage: export(model, inputs(), folder / storage, fp16=storage == "float16") for storage in SIZES}


def test_our_export_is_the_references_file_line_by_line(exported: dict[str, Path]):
    from face_graph import drawn

    from crossfade.ncnn.text_param import read

    graph, reference = read(exported["float32"]), drawn()
    assert len(graph.layers) == 165 and Counter(layer.kind for layer in graph.layers) == Counter(CENSUS)
    assert [(layer.kind, layer.numbers) for layer in graph.layers] == [(layer.kind, layer.numbers) for layer in reference.layers]
    assert graph.inputs == ("audio", "face") and graph.outputs == ("output",) and len(graph.blobs) == len(reference.blobs)


@pytest.mark.parametrize("storage", SIZES)
def test_a_weight_file_is_as_long_as_the_references(storage: str, exported: dict[str, Path]):
    """15,078,184 bytes in float16, which as float32 would be the 3.77 million parameters that some have counted."""
    size = exported[storage].with_suffix(".bin").stat().st_size
    assert size == SIZES[storage] * WEIGHTS + 4 * CONVOLUTIONS + 4 * (BIASES + NORMS)
    assert storage != "float16" or (size == 15_078_184 and size // 4 == 3_769_546)


def test_our_export_has_our_structure(model: FaceUnet, exported: dict[str, Path]):
    from crossfade.deploy.structure import from_ncnn, from_torch
    from crossfade.deploy.structure.compare import compare

    own = from_torch.of(model, inputs())
    for param in exported.values():
        found = from_ncnn.read(param, weights=True)
        assert compare(own, found).verdict == "identical" and found.parameters == own.parameters == 7_506_139
        assert found.as_ncnn_counts == 165


@pytest.fixture(scope="module", params=SIZES)
def theirs(request: pytest.FixtureRequest, model: FaceUnet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference's file with the model's weights, as an owner of one has it: .param and .bin."""
    pytest.importorskip("ncnn")
    from face_graph import drawn

    from crossfade.ncnn.write import write_param, write_weights

    graph, param = drawn(), tmp_path_factory.mktemp("theirs") / "face.param"
    named = [layer.name for layer in graph.layers if layer.kind == "GroupNorm" or "onvolution" in layer.kind]
    holders = [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.GroupNorm)]
    write_param(graph, param)
    weights = dict(zip(named, map(arrays, holders), strict=True))
    write_weights(graph, weights, param.with_suffix(".bin"), storage=request.param)
    return param


def arrays(part: nn.Module) -> dict[str, np.ndarray]:
    """ncnn has the outputs of a deconvolution first."""
    turned = {"weight"} if isinstance(part, nn.ConvTranspose2d) else set()
    return {name: (value.transpose(0, 1) if name in turned else value).detach().numpy() for name, value in part.named_parameters()}


@torch.no_grad()
def test_a_file_of_the_reference_becomes_our_network(theirs: Path, model: FaceUnet):
    from crossfade.deploy.ncnn_runner import NcnnRunner
    from crossfade.deploy.structure import from_ncnn, from_torch
    from crossfade.deploy.structure.align import align
    from crossfade.deploy.structure.compare import compare
    from crossfade.deploy.structure.weights import transfer

    fresh, given = lively(3), inputs()
    file, own = from_ncnn.read(theirs, weights=True), from_torch.of(fresh, given)
    assert compare(file, own).verdict == "identical" and file.as_ncnn_counts == 165
    assert file.tensors is not None and transfer(align(file, own), file.tensors, fresh).complete
    expected = halved(model) if theirs.with_suffix(".bin").stat().st_size == 15_078_184 else model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in fresh.state_dict().items())
    found = NcnnRunner(theirs, theirs.with_suffix(".bin"), threads=1)({name: x.numpy() for name, x in given.items()})["output"]
    assert 0.1 < found.std() < 0.9
    np.testing.assert_allclose(fresh.eval()(given)["output"].numpy(), found, atol=1e-4, rtol=0)


def halved(model: FaceUnet) -> dict[str, Tensor]:
    """The state after its convolutions' weights were stored as float16."""
    state = dict(model.state_dict())
    norms = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.GroupNorm)}
    return {name: x.half().float() if name.endswith("weight") and name not in norms else x for name, x in state.items()}


@torch.no_grad()
def test_our_export_answers_as_our_network(model: FaceUnet, exported: dict[str, Path]):
    from crossfade.deploy.ncnn_runner import NcnnRunner

    given = inputs(clips=2)
    param = exported["float32"]
    found = NcnnRunner(param, param.with_suffix(".bin"), threads=1)({name: x.numpy() for name, x in given.items()})
    assert list(found) == ["output"] and found["output"].shape == (2, 3, 160, 160)
    np.testing.assert_allclose(model(given)["output"].numpy(), found["output"], atol=1e-4, rtol=0)
