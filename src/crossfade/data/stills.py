"""One picture from an image file, by Pillow: turned as EXIF says, whatever its mode and depth, fitted to a square."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from crossfade.clip import Unreadable
from crossfade.data.container import check_file
from crossfade.data.pictures import resize

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
# Formats of pictures. Pillow knows more, among them PostScript, for which it runs Ghostscript.
PICTURE_FORMATS = "JPEG MPO PNG GIF BMP DIB WEBP TIFF PPM TGA PCX ICO JPEG2000 AVIF QOI PSD SGI DDS"
FEWEST = 2  # pixels a side: one row or column shows nothing
UINT16 = (1 << 16) - 1
HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")
SEVERAL = {"GIF", "PNG", "WEBP", "AVIF", "TIFF"}  # formats in which a second picture is another picture; in MPO it is a lens's or a map
_OPENING = threading.Lock()  # which warnings are errors is the whole process's affair


def read_image(path: Path | str, *, size: int, channels: int = 3, fit: str = "stretch") -> np.ndarray:
    """The upright picture as uint8 (1, channels, size, size), RGB or grey; an animation is its first picture.

    What is transparent becomes white. 16-bit grey is scaled by the range of the type, so 12 bits in 16 stay dark. `fit` as in
    `fitted`. Raises Unreadable: no such file, not an image, truncated, above Pillow's limit of pixels, below 2 × 2, 32 bits a value.
    """
    return fitted(upright(path), size=size, channels=channels, fit=fit)


def fitted(picture: np.ndarray, *, size: int, channels: int = 3, fit: str = "stretch") -> np.ndarray:
    """uint8 (H, W) or (H, W, 3) -> (1, channels, size, size): bilinear with antialias, as torchvision and Pillow do; as it is where
    the size is right already.

    `fit` stretch takes it straight to a square whatever its shape, crop its middle square, pad the whole of it on black.
    """
    return FITS[fit](COLOURS[channels](picture), size)[None]


def upright(path: Path | str) -> np.ndarray:
    """The picture as it is meant to be seen: uint8 (H, W) where it is grey, else (H, W, 3). Raises Unreadable."""
    path = Path(path)
    check_file(path)
    return _decoded(path, _pixels)


def remark(path: Path | str) -> str:
    """What a person should know of a picture that is used nonetheless, read off its head; "" for nothing. Raises Unreadable."""
    path = Path(path)
    return _decoded(path, _peculiarity)


def _peculiarity(path: Path, image: Image) -> str:
    shown = getattr(image, "n_frames", 1) if image.format in SEVERAL else 1
    if shown > 1:
        return "an animation or a file of several pictures; the first is used"
    return "in CMYK; turned into RGB without a colour profile" if image.mode == "CMYK" else ""


def _decoded(path: Path, take: Callable[[Path, Image], T]) -> T:
    from PIL import Image

    try:
        with _opened(path) as image:
            return take(path, image)
    except Unreadable:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unreadable(path, f"declares more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Image.UnidentifiedImageError:
        raise Unreadable(path, _unidentified(path)) from None
    except Exception as error:  # damaged files make Pillow's readers raise nearly anything
        raise Unreadable(path, f"truncated or damaged ({' '.join(str(error).split()) or type(error).__name__})") from None


def _unidentified(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    heic = head[4:] in HEIC
    return "is a HEIC picture, which Pillow does not read; convert it to JPEG" if heic else "is not an image, or is damaged beyond reading"


def _opened(path: Path) -> Image:
    """The file opened by its content, not yet decoded; a picture too large to be meant is an error before it fills the memory."""
    from PIL import Image

    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with a file is said once, by the error
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path, formats=_formats())


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return tuple(name for name in PICTURE_FORMATS.split() if name in Image.OPEN)


# ---- any mode to eight bits, grey or RGB


def _pixels(path: Path, image: Image) -> np.ndarray:
    from PIL import ImageOps

    if min(image.size) < FEWEST:
        raise Unreadable(path, f"is {image.width} × {image.height} pixels; a picture has at least {FEWEST} × {FEWEST}")
    turned = ImageOps.exif_transpose(image)
    turned.format = image.format
    clear = "transparency" in turned.info and turned.mode in ("1", "L", "P", "RGB")
    return np.array(_over_white(path, turned) if clear else MODES.get(turned.mode, _rgb)(path, turned))


def _rgb(path: Path, image: Image) -> Image:
    return image.convert("RGB")


def _grey(path: Path, image: Image) -> Image:
    return image.convert("L")


def _over_white(path: Path, image: Image) -> Image:
    """Where a picture is transparent, the page shines through."""
    from PIL import Image

    clear = image.convert("RGBA")
    whole = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return whole.convert("L") if image.mode in ("1", "L", "LA") else whole


def _deep(path: Path, image: Image) -> np.ndarray:
    """16 bits; Pillow's mode I is 32, unless a PNG or PGM is read, which have 16 at most."""
    values = np.array(image).astype(np.int64)
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise Unreadable(path, "has whole numbers of 32 bits, whose white nobody knows; convert it to 8 or 16 bits")
    return ((values * 255 + UINT16 // 2) // UINT16).astype(np.uint8)


def _fractions(path: Path, image: Image) -> np.ndarray:
    values = np.array(image)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise Unreadable(path, "has fractional numbers (mode F) outside 0 to 1, whose white nobody knows; convert it to 8 or 16 bits")
    return np.round(values * 255).astype(np.uint8)


def _lab(path: Path, image: Image) -> Image:
    from PIL import ImageCms

    turned = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB")
    return turned or image


MODES: dict[str, Callable[[Path, Image], Image | np.ndarray]] = {
    **dict.fromkeys(("1", "L"), _grey),
    **dict.fromkeys(("LA", "PA", "RGBA", "RGBa"), _over_white),
    **dict.fromkeys(("I;16", "I;16B", "I;16L", "I;16N", "I"), _deep),
    "F": _fractions,
    "LAB": _lab,
}  # any other is Pillow's own affair


# ---- colours and shapes


def _to_rgb(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)


def _to_grey(picture: np.ndarray) -> np.ndarray:
    """Pillow's L: 0.299 red, 0.587 green, 0.114 blue."""
    from PIL import Image

    return picture[..., None] if picture.ndim == 2 else np.array(Image.fromarray(picture).convert("L"))[..., None]


def _stretched(picture: np.ndarray, size: int) -> np.ndarray:
    return resize(picture, size)


def _cropped(picture: np.ndarray, size: int) -> np.ndarray:
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(picture[top : top + side, left : left + side], size)


def _padded(picture: np.ndarray, size: int) -> np.ndarray:
    height, width = picture.shape[:2]
    high, wide = (max(round(side * size / max(height, width)), 1) for side in (height, width))
    whole = np.zeros((picture.shape[2], size, size), np.uint8)
    top, left = (size - high) // 2, (size - wide) // 2
    whole[:, top : top + high, left : left + wide] = resize(picture, high, wide)
    return whole


COLOURS: dict[int, Callable[[np.ndarray], np.ndarray]] = {3: _to_rgb, 1: _to_grey}
FITS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"stretch": _stretched, "crop": _cropped, "pad": _padded}
