"""ncnn's files as an encoder and as a bundle: ncnn's own answers, stages that are stored, fine-tuning, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("ncnn")

from ncnn_reference import answers, random_weights, written
from test_ncnn_models import PUBLIC, by_pnnx, here
from tiny import crossfade

from crossfade import importing, run
from crossfade.clip import UserError
from crossfade.data.streams import image
from crossfade.models.heads import identity
from crossfade.models.image import spec_of
from crossfade.models.imported import ncnn, read_graph, text_of
from crossfade.ncnn.convert import to_torch
from crossfade.ncnn.graph import Graph, Layer
from crossfade.ncnn.model import read, weights_beside
from crossfade.ncnn.write import layer

SIZE = 64
CLASSES = 10


class Small(nn.Module):
    """A stem, two blocks with a way round them, two straight layers, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.one, self.two = (nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)) for _ in range(2))
        self.top = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.ReLU())
        self.classifier = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.one(x)
        x = self.top(x + self.two(x))
        return self.classifier(x.mean((2, 3)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return by_pnnx(tmp_path_factory.mktemp("small"), "small", Small(), (3, 32, 32))


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    return by_pnnx(
        tmp_path_factory.mktemp("mobilenet"), "net", mobilenet_v2(weights=None, width_mult=0.35, num_classes=CLASSES), (3, SIZE, SIZE)
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures each of two classes, of noise on red or on blue."""
    from PIL import Image

    root, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, colour in (("blue", (0, 0, 130)), ("red", (130, 0, 0))):
        (root / name).mkdir()
        for number in range(12):
            noise = generator.integers(0, 120, (40, 48, 3)) + np.array(colour)
            Image.fromarray(noise.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


def names(encoder: nn.Module) -> list[list[str]]:
    """The layers of each stage."""
    return [[made.name for made in stage.body.network.graph.layers[1:]] for stage in encoder.stages]  # type: ignore[union-attr]


def share(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference as a part of the largest value."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


# ---- the encoder


def test_the_token_is_what_ncnn_gives_its_classifier(mobilenet: Path):
    encoder, x = ncnn(graph=str(mobilenet), weights=str(weights_beside(mobilenet)), size=SIZE).eval(), torch.rand(3, SIZE, SIZE)
    graph = read(mobilenet).graph
    last = next(made for made in reversed(graph.layers) if made.kind == "InnerProduct")
    with torch.no_grad():
        tokens = encoder(x[None, None].expand(2, 3, -1, -1, -1), torch.tensor([[True] * 3, [True, False, False]]))
    assert tokens.x.shape == (2, 3, encoder.dim) and encoder.dim == 1280 and tokens.mask is not None
    wanted = answers(mobilenet, weights_beside(mobilenet), {"in0": x}, last.inputs)[last.inputs[0]]
    assert share(tokens.x[0, 2].numpy(), wanted.ravel()) < 1e-4
    assert encoder.report and not encoder.report.missing and len(encoder.report.loaded) == len(encoder.state_dict())


def test_a_stage_ends_where_one_blob_goes_on(small: Path):
    graph = read(small).graph
    encoder = ncnn(graph=str(small))
    kinds = {made.name: made.kind for made in graph.layers}
    found = [[kinds[name] for name in stage] for stage in names(encoder)]
    block = ["Split", "Convolution", "Convolution", "BinaryOp"]
    assert found == [["Convolution"], block, block, ["Convolution", "Convolution", "Reduction"]], "all but the Input and the classifier"


def test_stages_run_alone_and_on_from_there(mobilenet: Path):
    encoder = ncnn(graph=str(mobilenet), weights=str(weights_beside(mobilenet))).eval()
    x = torch.rand(2, 2, 3, 48, 48)
    assert 15 <= len(encoder.stages) <= 25
    with torch.no_grad():
        whole = encoder(x).x
        for k in range(len(encoder.stages) + 1):
            state = {name: tensor.clone() for name, tensor in encoder.run(encoder.begin(x, None), 0, k).items()}
            assert torch.equal(encoder.finish(encoder.run(state, k)).x, whole)


def test_recipe_text_rebuilds_it_and_every_source_of_weights_fits(small: Path, tmp_path: Path):
    from safetensors.torch import save_file

    encoder = ncnn(graph=str(small), weights=str(weights_beside(small)))
    text = encoder.rebuild["graph"]
    assert isinstance(text, str) and read_graph(text).layers == read_graph(text_of(read_graph(text))).layers
    network = to_torch(read(small, weights_beside(small)))
    save_file(network.state_dict(), tmp_path / "module.safetensors")
    save_file({f"encoders.image.{name}": x for name, x in encoder.state_dict().items()}, tmp_path / "bundle.safetensors")
    for source in ("module", "bundle"):
        again = ncnn(graph=text, weights=str(tmp_path / f"{source}.safetensors"))
        assert all(torch.equal(x, again.state_dict()[name]) for name, x in encoder.state_dict().items())
    torch.manual_seed(0)
    fresh = ncnn(graph=text)
    assert fresh.state_dict().keys() == encoder.state_dict().keys() and fresh.report is None
    fresh(torch.rand(2, 1, 3, 32, 32)).x.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() and weight.std() > 0 for weight in fresh.parameters())


def test_what_the_files_do_not_say_is_asked_for(small: Path):
    said = {"graph": str(small), "weights": "nowhere.bin", "mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3], "size": 48}
    spec = spec_of("ncnn", said)
    assert spec.shape == (None, 3, None, None) and spec.size == 48 and spec.mean == (0.5, 0.4, 0.3) and spec.std == (0.1, 0.2, 0.3)
    assert spec_of("ncnn", {"graph": str(small)}).mean is None and "ImageNet" in ncnn(graph=str(small)).note
    x = torch.rand(2, 1, 3, 32, 32)
    rgb, bgr = (ncnn(graph=str(small), weights=str(weights_beside(small)), colours=order).eval() for order in ("rgb", "bgr"))
    with torch.no_grad():
        assert torch.equal(bgr(x).x, rgb(x.flip(2)).x) and not torch.equal(bgr(x).x, rgb(x).x)


def test_another_place_to_end_at_gives_the_mean_of_its_maps(small: Path):
    graph, x = read(small).graph, torch.rand(3, 32, 32)
    join = next(made for made in graph.layers if made.kind == "BinaryOp")
    wanted = answers(small, weights_beside(small), {"in0": x}, join.outputs)[join.outputs[0]].mean((1, 2))
    for cut in (join.name, join.outputs[0]):
        encoder = ncnn(graph=str(small), weights=str(weights_beside(small)), cut=cut).eval()
        with torch.no_grad():
            assert encoder.dim == 8 and len(encoder.stages) == 2 and share(encoder(x[None, None]).x[0, 0].numpy(), wanted) < 1e-4
    with pytest.raises(UserError, match=r"cut: .*small.ncnn.param has no layer or blob 'nothing'; nearest is"):
        ncnn(graph=str(small), cut="nothing")
    with pytest.raises(UserError, match="cut: in0 is what goes in"):
        ncnn(graph=str(small), cut="in0")


def flat(side: int, *after: Layer) -> Graph:
    """A convolution whose whole map enters an InnerProduct, with a tensor of the network's own added before."""
    return Graph(
        "flat",
        (
            layer("Input", "in", (), ("x",)),
            layer("MemoryData", "shift", (), ("s",), w=side, h=side, c=2),
            layer("Convolution", "first", ("x",), ("a",), num_output=2, kernel_w=1, bias_term=1, weight_data_size=2),
            layer("Convolution", "second", ("a",), ("b",), num_output=2, kernel_w=1, bias_term=0, weight_data_size=4),
            layer("BinaryOp", "shifted", ("b", "s"), ("c",)),
            layer("InnerProduct", "scores", ("c",), ("y",), num_output=4, bias_term=1, weight_data_size=4 * 2 * side * side),
            *after,
        ),
    )


def test_a_whole_map_that_enters_the_classifier_is_the_token(tmp_path: Path):
    graph = flat(8)
    param, binary = written(tmp_path, graph, random_weights(graph))
    encoder, x = ncnn(graph=str(param), weights=str(binary), size=8).eval(), torch.rand(1, 8, 8)
    assert encoder.spec.shape == (None, 1, 8, 8) and encoder.spec.size == 8 and encoder.dim == 128
    assert names(encoder) == [["first", "second"], ["shift", "shifted"]]
    wanted = answers(param, binary, {"x": x}, ["c"])["c"]
    with torch.no_grad():
        assert share(encoder(x[None, None]).x[0, 0].numpy(), wanted.ravel()) < 1e-5
    with pytest.raises(UserError, match=r"does not fit its inputs .*; give the size it is made for"):
        ncnn(graph=str(param))


# ---- the bundle


def predicted(out: Path, picture: Path) -> np.ndarray:
    (row,) = run.predict(out, [picture])
    return np.array([value for name, value in row.items() if name.startswith("p_")])


def seen(out: Path, picture: Path) -> Tensor:
    """The picture as the bundle's model gets it, (C, H, W)."""
    from crossfade.clip import Clip

    options = run.open_run(out).recipe.data.streams["image"]
    stream = image(**{name: value for name, value in options.items() if name != "use"})
    return stream.finish(stream.decode(Clip("one", {"image": picture}, {}, "")))[0][0]


def softmax(scores: np.ndarray) -> np.ndarray:
    return np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()


def test_a_bundle_predicts_what_ncnn_does(mobilenet: Path, pictures: Path, tmp_path: Path):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"kind {number}" for number in range(CLASSES)) + "\n")
    out = importing.import_ncnn(mobilenet, None, tmp_path / "out", labels=labels, size=SIZE, target="kind")
    picture = pictures / "red" / "0.png"
    scores = answers(mobilenet, weights_beside(mobilenet), {"in0": seen(out, picture)}, ["out0"])["out0"]
    assert np.abs(predicted(out, picture) - softmax(scores)).max() < 2e-6
    (row,) = run.predict(out, [picture])
    assert row["predicted"] == f"kind {scores.argmax()}"
    with pytest.raises(UserError, match="out: exists already; choose another --out"):
        importing.import_ncnn(mobilenet, None, out)


@here
def test_a_public_classifier_predicts_what_ncnn_does(pictures: Path, tmp_path: Path):
    """Its scores are pooled maps and its last layer a Softmax, which must not be applied twice; it takes blue first, of 0 to 255."""
    param, picture = PUBLIC / "squeezenet_v1.1.param", pictures / "blue" / "3.png"
    out = importing.import_ncnn(param, None, tmp_path / "out", mean=(123, 117, 104), std=(1, 1, 1), white=255, colours="bgr")
    probability = answers(param, weights_beside(param), {"data": seen(out, picture).flip(0)}, ["prob"])["prob"]
    assert np.abs(predicted(out, picture) - probability).max() < 2e-6 and np.ptp(probability) > 0.01
    assert run.open_run(out).recipe.model.heads == {"label": {"use": "identity"}}
    pixels = seen(out, picture)[0] + 123
    assert pixels.min() >= 0 and pixels.max() <= 255 and pixels.max() > 60, "red of 0 to 255 less 123"


def test_a_sigmoid_makes_classes_that_go_together(tmp_path: Path, pictures: Path):
    graph = flat(8, layer("Sigmoid", "yes", ("y",), ("p",)))
    param, binary = written(tmp_path, graph, random_weights(graph))
    out = importing.import_ncnn(param, binary, tmp_path / "out", labels=list("abcd"), size=8, mean=(0.5,), std=(0.5,))
    picture = pictures / "red" / "1.png"
    wanted = answers(param, binary, {"x": seen(out, picture)}, ["p"])["p"]
    assert np.abs(predicted(out, picture) - wanted).max() < 2e-6
    assert run.open_run(out).recipe.data.several == ["label"]


def test_an_import_is_fine_tuned_with_its_first_stages_stored(mobilenet: Path, pictures: Path, tmp_path: Path):
    out = importing.import_ncnn(mobilenet, None, tmp_path / "out", size=SIZE)
    words = (
        "data.workers=0",
        "phases.head.epochs=1",
        "phases.unfreeze.epochs=1",
        "phases.unfreeze.select=last",
        "data.batch=8",
        "--data",
        pictures,
    )
    said = crossfade("train", out / importing.FINE_TUNING, *words, "--out", tmp_path / "tuned")
    assert said.code == 0, said.err
    log = (tmp_path / "tuned" / "train.log").read_text()
    assert f"stored: image encoder, stages 1 to {len(run.open_run(out).model.encoders['image'].stages) - 4} of" in log
    before, after = (run.open_run(folder).model.encoders["image"].state_dict() for folder in (out, tmp_path / "tuned"))
    first, last = next(iter(before)), list(before)[-1]
    assert before.keys() == after.keys() and torch.equal(before[first], after[first]) and not torch.equal(before[last], after[last])
    recipe = (tmp_path / "tuned" / "recipe.yaml").read_text()
    assert "7767517" in recipe and str(mobilenet) not in recipe


def test_what_no_bundle_can_be_made_of(small: Path, tmp_path: Path):
    with pytest.raises(UserError, match="labels: holds 2 names, but the network gives 3 scores"):
        importing.import_ncnn(small, None, tmp_path / "out", labels=["a", "b"])
    with pytest.raises(UserError, match="labels: 'a' stands twice"):
        importing.import_ncnn(small, None, tmp_path / "out", labels=["a", "b", "a"])
    with pytest.raises(UserError, match=r"labels\.txt: cannot be read as a list of labels"):
        importing.import_ncnn(small, None, tmp_path / "out", labels=tmp_path / "labels.txt")
    two = flat(8, layer("ReLU", "more", ("b",), ("z",)))
    param, binary = written(tmp_path, two, random_weights(two))
    with pytest.raises(UserError, match=r"gives 2 blobs \(y, z\), not the scores of classes; a bundle is made of classifiers.*to_torch"):
        importing.import_ncnn(param, binary, tmp_path / "out", size=8)
    assert not (tmp_path / "out").exists()


@here
@pytest.mark.parametrize(("name", "says"), [("slim-320", "gives 2 blobs"), ("spanx2_ch48", r"shape \(3, 448, 448\)")])
def test_public_models_that_are_no_classifiers(name: str, says: str, tmp_path: Path):
    with pytest.raises(UserError, match=f"{says}.*not the scores of classes.*to_torch"):
        importing.import_ncnn(PUBLIC / f"{name}.param", None, tmp_path / "out")


def test_an_identity_head_needs_a_value_a_class():
    x = torch.rand(2, 5)
    assert torch.equal(identity(5, 5)(x), x)
    with pytest.raises(UserError, match="has 6 values, but there are 5 classes"):
        identity(6, 5)


# ---- shown


def test_a_table_with_its_sums(tmp_path: Path):
    graph = flat(8)
    param, binary = written(tmp_path, graph, random_weights(graph))
    shown = importing.show(param, binary, (1, 8, 8))
    assert shown.weights == 128 + (2 + 2) + 4 + (512 + 4) and shown.multiply_adds == 64 * 2 + 64 * 4 + 512
    row = shown.table()[2]
    assert row["layer"] == "first" and row["shape"] == "2×8×8" and row["parameters"].startswith("num_output=2 kernel_w=1")
    assert shown.total() == "6 layers, 652 weights, 896 multiply-adds" and shown.to_json()["layers"][5]["weights"] == 516
    assert importing.show(param).total().endswith("4 layers are not in the sums, for their kind or shape is not known")
