"""Image files: upright, in RGB from any mode, resized as torchvision does; every kind of bad file against its reason."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from crossfade.clip import Unreadable
from crossfade.data.media import read_image
from crossfade.data.pictures import resize


def drawn(width: int = 60, height: int = 40) -> Image.Image:
    """A picture without symmetry: red grows to the right, green downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[: height // 2, : width // 2, 2] = np.arange(width) * 4, np.arange(height)[:, None] * 6, 200
    return Image.fromarray(pixels)


def pixels_of(image: Image.Image) -> np.ndarray:
    return np.array(image.convert("RGB"))


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "webp", "ppm"])
def test_lossless_formats_by_content(tmp_path, kind):
    drawn().save(tmp_path / "a", kind, lossless=True)
    (tmp_path / "a").rename(tmp_path / "a.wav")
    found = read_image(tmp_path / "a.wav", size=24)
    assert found.shape == (1, 3, 24, 24) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], resize(pixels_of(drawn()), 24))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_any_mode_of_eight_bits_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    drawn().convert(mode).save(path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_image(path, size=24)[0], resize(pixels_of(image), 24))


def test_jpeg_within_its_loss(tmp_path):
    drawn(240, 160).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg", size=24)[0].astype(int) - resize(pixels_of(drawn(240, 160)), 24)).mean() < 2


TURNED = {  # EXIF's number -> how the stored picture has to be turned to stand upright
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, 3),
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_rotation_is_honoured(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    drawn().save(tmp_path / "a.png", exif=exif)
    expected = resize(np.ascontiguousarray(TURNED[orientation](pixels_of(drawn()))), 24)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", size=24)[0], expected)


def test_an_animation_is_its_first_picture(tmp_path):
    drawn().save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (60, 40), "white")])
    with Image.open(tmp_path / "a.gif") as first:
        np.testing.assert_array_equal(read_image(tmp_path / "a.gif", size=24)[0], resize(pixels_of(first), 24))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_eight_bits_are_refused_not_cut(tmp_path, mode):
    Image.fromarray(np.full((8, 8), 1000, {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])).save(tmp_path / "a.tiff")
    with pytest.raises(Unreadable, match=rf"more than 8 bits a value \(mode {mode}\)"):
        read_image(tmp_path / "a.tiff", size=8)


def declare(path, side: int):
    """A PNG that says it is side × side, with nothing of it there."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    coded = [struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(coded))
    return path


@pytest.mark.parametrize("side", [10_000, 60_000])  # Pillow warns of the first and refuses the second
def test_decompression_bombs(tmp_path, side):
    with warnings.catch_warnings(record=True) as seen, pytest.raises(Unreadable, match=r"more than [\d,]+ pixels") as error:
        warnings.simplefilter("always")
        read_image(declare(tmp_path / "a.png", side), size=8)
    assert error.value.path == str(tmp_path / "a.png") and not seen


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "is empty"), (b"no picture\n" * 100, "not an image"), (b"RIFF....WAVEfmt ", "not an image")]
)
def test_what_is_no_image(tmp_path, content, reason):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(Unreadable, match=reason):
        read_image(tmp_path / "a.png", size=8)
    with pytest.raises(Unreadable, match="no such file"):
        read_image(tmp_path / "b.png", size=8)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp"])
def test_truncated_and_damaged_files_name_themselves(tmp_path, kind):
    drawn().save(tmp_path / "whole", kind)
    whole, rng, path = (tmp_path / "whole").read_bytes(), np.random.default_rng(0), tmp_path / "hurt"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Unreadable) as error:
        read_image(path, size=8)
    assert error.value.path == str(path) and "\n" not in str(error.value)
    for _ in range(60):
        content = bytearray(whole)
        for place in rng.integers(0, len(content), 4):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            assert read_image(path, size=8).shape == (1, 3, 8, 8)
        except Unreadable as error:
            assert "\n" not in str(error)
