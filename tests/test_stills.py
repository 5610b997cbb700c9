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
from crossfade.data.stills import fitted, remark, upright


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


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_any_mode_of_eight_bits_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    drawn().convert(mode).save(path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_image(path, size=24)[0], resize(pixels_of(image), 24))


def clear(mode: str) -> Image.Image:
    """The left half opaque, the right half without any cover, all of it dark underneath."""
    image = Image.new("RGBA", (8, 4), (40, 40, 40, 255))
    image.paste((40, 40, 40, 0), (4, 0, 8, 4))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_what_is_transparent_becomes_white(tmp_path, mode, kind):
    clear(mode).save(tmp_path / "a", kind)
    shown = upright(tmp_path / "a")
    assert shown.ndim == {"RGBA": 3, "LA": 2}[mode]
    assert (shown[:, :4] == 40).all() and (shown[:, 4:] == 255).all()


@pytest.mark.parametrize("mode", ["P", "RGB", "L", "1"])
def test_a_transparent_colour_becomes_white_and_half_cover_is_mixed(tmp_path, mode):
    image = Image.new("L", (8, 4), 0)
    image.paste(255 if mode == "1" else 120, (4, 0, 8, 4))
    image.convert(mode).save(tmp_path / "a.png", transparency={"P": 0, "RGB": (0, 0, 0), "L": 0, "1": 0}[mode])
    shown = upright(tmp_path / "a.png").reshape(4, 8, -1)
    assert (shown[:, :4] == 255).all() and (shown[:, 4:] == (255 if mode == "1" else 120)).all()
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "b.png")
    assert np.abs(upright(tmp_path / "b.png").astype(int) - 127).max() <= 1


def test_a_cmyk_jpeg_has_the_colours_of_the_picture_it_was_made_of(tmp_path):
    drawn(240, 160).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(upright(tmp_path / "a.jpg").astype(int) - pixels_of(drawn(240, 160))).mean() < 4
    assert remark(tmp_path / "a.jpg") == "in CMYK; turned into RGB without a colour profile"


def test_lab_is_srgb_again(tmp_path):
    from PIL import ImageCms

    lab = ImageCms.profileToProfile(drawn(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB")
    assert lab is not None
    lab.save(tmp_path / "a.tiff")
    assert np.abs(upright(tmp_path / "a.tiff").astype(int) - pixels_of(drawn())).mean() < 6


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_channels(tmp_path, mode, channels):
    drawn().convert(mode).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        wanted = pixels_of(image) if channels == 3 else np.array(image.convert("RGB").convert("L"))[..., None]
    found = read_image(tmp_path / "a.png", size=24, channels=channels)
    assert found.shape == (1, channels, 24, 24)
    np.testing.assert_array_equal(found[0], resize(wanted, 24))


def test_fits():
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, 10:30], picture[:, :10] = 200, 90
    np.testing.assert_array_equal(fitted(picture, size=10, fit="crop"), np.full((1, 3, 10, 10), 200))
    padded = fitted(picture, size=40, fit="pad")[0]
    np.testing.assert_array_equal(padded[:, 10:30], picture.transpose(2, 0, 1))
    assert not padded[:, :10].any() and not padded[:, 30:].any()
    tall = fitted(picture.transpose(1, 0, 2).copy(), size=40, fit="pad")[0]
    np.testing.assert_array_equal(tall, padded.transpose(0, 2, 1))
    np.testing.assert_array_equal(fitted(picture[:, :20], size=20)[0], picture[:, :20].transpose(2, 0, 1))
    assert fitted(np.full((2, 5000), 7, np.uint8), size=32, channels=1, fit="pad").shape == (1, 1, 32, 32)


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


def test_animations_are_remarked_on_and_pictures_are_not(tmp_path):
    two = [drawn(), Image.new("RGB", (60, 40), "white")]
    for kind in ("gif", "png", "webp", "tiff"):
        two[0].save(tmp_path / "many", kind, save_all=True, append_images=two[1:])
        two[0].save(tmp_path / "one", kind)
        assert remark(tmp_path / "many") == "an animation or a file of several pictures; the first is used", kind
        assert remark(tmp_path / "one") == "", kind


RAMP = np.arange(0, 65536, 1285, dtype=np.uint16)[:48].reshape(6, 8)


@pytest.mark.parametrize("kind", ["png", "tiff", "pgm"])
def test_sixteen_bits_of_grey_are_scaled_not_cut(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "pgm":
        path.write_bytes(b"P5 8 6 65535\n" + RAMP.astype(">u2").tobytes())
    else:
        Image.fromarray(RAMP).save(path)
    np.testing.assert_array_equal(upright(path), np.round(RAMP / 257).astype(np.uint8))


def test_sixteen_bits_the_other_way_round(tmp_path):
    image = Image.frombytes("I;16B", (8, 6), RAMP.astype(">u2").tobytes())
    image.save(tmp_path / "a.tiff")
    np.testing.assert_array_equal(upright(tmp_path / "a.tiff"), np.round(RAMP / 257).astype(np.uint8))


def test_fractions_within_one(tmp_path):
    values = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    np.testing.assert_array_equal(upright(tmp_path / "a.tiff"), np.round(values * 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((8, 8), 1000, np.int32), "whole numbers of 32 bits"),
        (np.full((8, 8), 1.5, np.float32), "outside 0 to 1"),
        (np.full((8, 8), np.nan, np.float32), "outside 0 to 1"),
    ],
)
def test_depths_whose_white_nobody_knows_are_refused_not_cut(tmp_path, values, reason):
    Image.fromarray(values).save(tmp_path / "a.tiff")
    with pytest.raises(Unreadable, match=reason):
        read_image(tmp_path / "a.tiff", size=8)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_a_row_of_pixels_is_no_picture(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "a.png")
    with pytest.raises(Unreadable, match=f"is {size[0]} × {size[1]} pixels; a picture has at least 2 × 2"):
        read_image(tmp_path / "a.png", size=8)
    Image.new("RGB", (2, 2), "red").save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png", size=8)[0, 0].min() == 255


@pytest.mark.parametrize("kind", ["eps", "pdf"])
def test_pages_to_print_are_no_pictures(tmp_path, kind):
    drawn().save(tmp_path / "a.png", kind)
    with pytest.raises(Unreadable, match="is not an image"):
        read_image(tmp_path / "a.png", size=8)


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
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"no picture\n" * 100, "not an image"),
        (b"RIFF....WAVEfmt ", "not an image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC picture.*convert it"),
    ],
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
