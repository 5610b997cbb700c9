"""ncnn's files: what is read, how weights are stored, and that no file, however bad, does more than say one line."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("ncnn")

from ncnn_reference import answers, one_layer, random_weights, same_numbers, written

from crossfade.clip import UserError
from crossfade.ncnn.convert import to_torch
from crossfade.ncnn.graph import Graph
from crossfade.ncnn.kinds import complete
from crossfade.ncnn.model import read
from crossfade.ncnn.show import show
from crossfade.ncnn.write import layer, write_binary_param, write_param

CONVOLUTION = {"num_output": 6, "kernel_w": 3, "bias_term": 1, "weight_data_size": 216, "pad_left": 1}
HEAD = "7767517\n2 2\nInput in 0 1 a 0=5 1=6 2=4\n"


def network_graph() -> Graph:
    """Convolution with a fused leaky ReLU, split, two ways, joined, global pooling, a linear layer."""
    made = [
        layer("Input", "in", (), ("x",), w=7, h=6, c=4),
        layer("Convolution", "conv", ("x",), ("y",), **CONVOLUTION, activation_type=2, activation_params=(0.1,)),
        layer("Split", "split", ("y",), ("y0", "y1")),
        layer("Swish", "swish", ("y0",), ("z",)),
        layer("BinaryOp", "add", ("z", "y1"), ("s",)),
        layer("Pooling", "pool", ("s",), ("p",), pooling_type=1, global_pooling=1),
        layer("InnerProduct", "fc", ("p",), ("out",), num_output=3, bias_term=1, weight_data_size=18),
    ]
    return Graph("network", tuple(made))


def test_parameters_have_names_and_defaults_that_depend_on_others(tmp_path: Path):
    (tmp_path / "net.param").write_text(HEAD + "Convolution c 1 1 a b 0=6 1=3 11=5 2=2 4=1 14=2 5=1 6=360 9=3 -23310=2,0.0,6.0\n")
    graph = read(tmp_path / "net.param").graph
    p = complete(graph, graph.layers[1])
    assert (p.num_output, p.kernel_w, p.kernel_h, p.dilation_w, p.dilation_h, p.stride_w, p.stride_h) == (6, 3, 5, 2, 2, 1, 1)
    assert (p.pad_left, p.pad_right, p.pad_top, p.pad_bottom) == (1, 1, 2, 2)
    assert p.activation_params == (0.0, 6.0) and p.pad_value == 0.0
    assert graph.inputs == ("a",) and graph.outputs == ("b",)


def test_the_newer_spelling_of_arrays_and_texts(tmp_path: Path):
    (tmp_path / "net.param").write_text(HEAD + 'Crop c 1 1 a b 9=1,2 10=3,-233 11=0,1 19="0w,2" 20=text\n')
    assert read(tmp_path / "net.param").graph.layers[1].numbers == {9: (1, 2), 10: (3, -233), 11: (0, 1), 19: "0w,2", 20: "text"}


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_a_written_network_is_read_back_and_equals_ncnn(storage: str, tmp_path: Path):
    graph = network_graph()
    weights = random_weights(graph)
    param, binary = written(tmp_path, graph, weights, storage)
    model = read(param, binary)
    same_numbers(model.graph, graph)
    assert model.weights is not None
    exact = weights["conv"]["weight"].astype(np.float16).astype(np.float32) if storage == "float16" else weights["conv"]["weight"]
    np.testing.assert_array_equal(model.weights["conv"]["weight"], exact)
    x = torch.rand(1, 4, 6, 7)
    ours = to_torch(model)({"x": x})["out"][0].detach().numpy()
    np.testing.assert_allclose(ours, answers(param, binary, {"x": x[0]}, ["out"])["out"], rtol=1e-4, atol=1e-6)


def test_ncnn_reads_our_binary_param(tmp_path: Path):
    graph = network_graph()
    param, binary = written(tmp_path, graph, random_weights(graph))
    write_binary_param(graph, tmp_path / "net.param.bin")
    again = read(tmp_path / "net.param.bin").graph
    assert again.layers[1].numbers[10] == pytest.approx((0.1,)) and again.layers[1].inputs == ("0",)
    write_param(again, tmp_path / "again.param")
    x = torch.rand(4, 6, 7)
    first, second = (
        answers(path, binary, {name: x}, [out])[out] for path, name, out in ((param, "x", "out"), (tmp_path / "again.param", "0", "7"))
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("kind", "named", "scales"),
    [
        ("Convolution", {**CONVOLUTION, "int8_scale_term": 1}, 6),
        ("ConvolutionDepthWise", {**CONVOLUTION, "weight_data_size": 108, "group": 2, "int8_scale_term": 1}, 2),
        ("InnerProduct", {"num_output": 6, "bias_term": 1, "weight_data_size": 6 * 168, "int8_scale_term": 1}, 6),
    ],
)
def test_int8_is_multiplied_out_and_near_ncnn(kind: str, named: dict, scales: int, tmp_path: Path):
    graph = one_layer(kind, 1, **named)
    weights = random_weights(graph)
    own = weights["layer"]
    own["weight_scale"] = (127 / np.abs(own["weight"].reshape(scales, -1)).max(1)).astype(np.float32)
    own["input_scale"] = np.array([127.0], np.float32)
    param, binary = written(tmp_path, graph, weights, "int8")
    model = read(param, binary)
    assert model.weights is not None and set(model.weights["layer"]) == {"weight", "bias"}
    steps = 0.5 / own["weight_scale"].min()
    assert np.abs(model.weights["layer"]["weight"] - own["weight"]).max() <= steps * 1.001
    x = torch.rand(1, 4, 6, 7)
    ours, theirs = to_torch(model)({"a": x})["y0"][0].detach().numpy(), answers(param, binary, {"a": x[0]}, ["y0"])["y0"]
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 0.02  # ncnn rounds the input to 8 bits too


def test_a_quantised_table(tmp_path: Path):
    """A flag of any other kind: 256 floats, then a byte a weight."""
    graph = one_layer("InnerProduct", 1, num_output=2, weight_data_size=10)
    table, places = np.random.default_rng(0).normal(size=256).astype("<f4"), np.arange(10, dtype=np.uint8) * 20
    write_param(graph, tmp_path / "net.param")
    (tmp_path / "net.bin").write_bytes(struct.pack("<I", 1) + table.tobytes() + places.tobytes() + bytes(2))
    model = read(tmp_path / "net.param", tmp_path / "net.bin")
    assert model.weights is not None
    np.testing.assert_array_equal(model.weights["layer"]["weight"].ravel(), table[places])
    x = torch.rand(1, 5)
    theirs = answers(tmp_path / "net.param", tmp_path / "net.bin", {"a": x[0]}, ["y0"])["y0"]
    np.testing.assert_allclose(to_torch(model)({"a": x})["y0"][0].detach().numpy(), theirs, rtol=1e-5)


BAD = {
    "": "line 1: is '', but a .param of ncnn begins with 7767517",
    "7767518\n1 1\n": "line 1: is '7767518'",
    "7767517\n": "line 2: is ''",
    "7767517\n1000000000 2\nInput in 0 1 a\n": "line 2: says 1000000000 layers, but 1 lines follow",
    "7767517\n1 -1\nInput in 0 1 a\n": "line 2: is '1 -1'",
    "7767517\n1 2\nInput in 0 1 a\n": "line 2: says 2 blobs, but the layers make 1",
    "7767517\n1 1\nInput in 0 1000000000 a\n": "line 3: says 0 inputs and 1000000000 outputs, but 1 words follow",
    "7767517\n1 1\nInput in 0 99999999999 a\n": "line 3: has to be a kind",
    "7767517\n1 1\nInput in 0 1 a 0=99999999999\n": "line 3: '99999999999' is not a number of 32 bits",
    "7767517\n1 1\nInput in 0 1 a 0=1e999\n": "line 3: '1e999' is not a number of 32 bits",
    "7767517\n1 1\nInput in 0 1 a 0\n": "line 3: '0' is not a parameter, such as 0=16",
    "7767517\n1 1\nInput in 0 1 a 0=1 0=2\n": "line 3: gives the parameter 0 twice",
    "7767517\n1 1\nInput in 0 1 a -23300=1000000000,1\n": "line 3: an array says 1000000000 elements, but has 1",
    "7767517\n1 1\nInput in 0 1 a 7777=1\n": "line 3: there is no parameter 7777",
    "7767517\n1 1\nMemoryData in 0 1 a 0=4\n": "has no Input layer",
    HEAD + "ReLU in 1 1 a b\n": "line 4: ReLU in: is the second layer called in",
    HEAD + "ReLU r 1 1 a a\n": "line 4: ReLU r: is the second blob called a",
    HEAD + "ReLU r 1 1 q b\n": "line 4: ReLU r: takes the blob q, which no layer makes",
    HEAD + "ReLU r 1 1 b b\n": "line 4: ReLU r: takes the blob b, which r makes only later or from this very layer",
    "7767517\n3 3\nInput in 0 1 a\nReLU r 1 1 c b\nReLU s 1 1 b c\n": "line 4: ReLU r: takes the blob c, which s makes only later",
}


@pytest.mark.parametrize("content", BAD, ids=list(BAD.values()))
def test_a_bad_param_says_where(content: str, tmp_path: Path):
    (tmp_path / "net.param").write_text(content)
    with pytest.raises(UserError) as error:
        read(tmp_path / "net.param")
    assert BAD[content] in str(error.value) and "\n" not in str(error.value) and "net.param" in str(error.value)


WRONG = {
    "Convolution c 1 1 a b 0=6 1=3 6=217": "weight_data_size 217 is no multiple of 54",
    "Convolution c 1 1 a b 0=-6 1=3 6=216": "weight_data_size 216 is no multiple of -54",
    "Convolution c 1 1 a b 0=6 1=3 6=216 9=17": "activation_type is 17",
    "Convolution c 1 1 a b 0=6 1=3 6=216 9=2": "activation_type 2 takes 1 activation_params, but has 0",
    "ReLU c 1 1 a b 0=2": "slope is 2, but has to be a number with a point",
    "Softmax c 1 1 a b 0=1.0": "axis is 1.0, but has to be an integer",
    "Softmax c 1 1 a b 17=1": "has the parameter 17, which is not known of a Softmax",
    "UnaryOp c 1 1 a b 0=77": "op_type is 77",
    'Reshape c 1 1 a b 0=1 6="0w"': "computes its shape by an expression",
}


@pytest.mark.parametrize("line", WRONG, ids=list(WRONG.values()))
def test_a_wrong_layer_is_named(line: str, tmp_path: Path):
    (tmp_path / "net.param").write_text(HEAD + line + "\n")
    with pytest.raises(UserError, match=r"net\.param line 4: \w+ c: ") as error:
        to_torch(read(tmp_path / "net.param"))
    assert WRONG[line] in str(error.value) and "\n" not in str(error.value)


def test_not_text_and_not_there(tmp_path: Path):
    (tmp_path / "net.param").write_bytes(b"7767517\n1 1\nInput \xff 0 1 a\n")
    with pytest.raises(UserError, match="not text"):
        read(tmp_path / "net.param")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "other.param")


def test_weights_cut_or_too_long(tmp_path: Path):
    graph = network_graph()
    param, binary = written(tmp_path, graph, random_weights(graph))
    whole = binary.read_bytes()
    for content, message in (
        (whole[:-1], "fc: bias needs 12 bytes"),
        (whole[:40], "conv: weight needs"),
        (b"", "needs 4 bytes"),
        (whole + bytes(8), "8 bytes follow"),
    ):
        binary.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read(param, binary)


def test_a_claimed_size_allocates_nothing(tmp_path: Path):
    (tmp_path / "net.param").write_text(HEAD + "InnerProduct fc 1 1 a b 0=1 2=2000000000\n")
    (tmp_path / "net.bin").write_bytes(bytes(64))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="needs 8000000000 bytes"):
            read(tmp_path / "net.param", tmp_path / "net.bin")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def tried(param: Path, binary: Path | None, content: bytes) -> None:
    """Read, show and convert: whatever the bytes, nothing but one line."""
    param.write_bytes(content)
    try:
        model = read(param, binary)
        show(model)
        to_torch(model)
    except UserError as error:
        assert "\n" not in str(error)


FUZZ = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(content=st.binary(max_size=300))
def test_random_bytes(content: bytes, tmp_path: Path):
    for name, head in (("net.param", b"7767517\n"), ("net.param.bin", struct.pack("<i", 7767517))):
        tried(tmp_path / name, None, content)
        tried(tmp_path / name, None, head + content)


@FUZZ
@given(data=st.data())
def test_a_valid_file_with_some_bytes_changed(data: st.DataObject, tmp_path: Path):
    graph = network_graph()
    param, binary = written(tmp_path, graph, random_weights(graph))
    write_binary_param(graph, tmp_path / "net.param.bin")
    for path in (param, tmp_path / "net.param.bin"):
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(content) - 1))
            content[place : place + data.draw(st.integers(0, 3))] = data.draw(
                st.binary(max_size=4) | st.sampled_from([b"-", b"9999999", b" ", b"\n", b"=1e9"])
            )
        tried(path, binary, bytes(content))


@FUZZ
@given(content=st.binary(max_size=1200))
def test_random_weights_never_crash(content: bytes, tmp_path: Path):
    graph = network_graph()
    param, binary = tmp_path / "net.param", tmp_path / "net.bin"
    write_param(graph, param)
    binary.write_bytes(content)
    tried(param, binary, param.read_bytes())
