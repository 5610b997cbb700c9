"""One picture from an image file, by Pillow: turned as EXIF says, in RGB, resized to a square."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crossfade.clip import Unreadable
from crossfade.data.container import check_file
from crossfade.data.pictures import resize

if TYPE_CHECKING:
    from PIL.Image import Image

DEEP = ("I", "F")  # Pillow's modes of more than 8 bits a value begin so; its RGB of them is cut at 255
_OPENING = threading.Lock()  # which warnings are errors is the whole process's affair


def read_image(path: Path | str, *, size: int) -> np.ndarray:
    """The upright picture in RGB, resized straight to a square whatever its shape, as uint8 (1, 3, size, size).

    Bilinear with antialias, as torchvision and Pillow do. Transparency is dropped, an animation is its first picture.
    Raises Unreadable: no such file, not an image, truncated, above Pillow's limit of pixels, more than 8 bits a value.
    """
    path = Path(path)
    check_file(path)
    return resize(_upright(path), size)[None]


def _upright(path: Path) -> np.ndarray:
    """RGB uint8 (H, W, 3)."""
    from PIL import Image, ImageOps

    try:
        with _opened(path) as image:
            if image.mode.startswith(DEEP):
                raise Unreadable(path, f"has more than 8 bits a value (mode {image.mode}); convert it to an 8-bit picture")
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Unreadable:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unreadable(path, f"declares more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Image.UnidentifiedImageError:
        raise Unreadable(path, "is not an image, or is damaged beyond reading") from None
    except Exception as error:  # damaged files make Pillow's readers raise nearly anything
        raise Unreadable(path, f"truncated or damaged ({' '.join(str(error).split()) or type(error).__name__})") from None


def _opened(path: Path) -> Image:
    """The file opened by its content, not yet decoded; a picture too large to be meant is an error before it fills the memory."""
    from PIL import Image

    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with a file is said once, by the error
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path)
