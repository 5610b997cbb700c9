"""Where the face is in a clip: YuNet, found once and reused for every picture. Needs OpenCV: `pip install crossfade[faces]`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from crossfade.clip import UserError
from crossfade.data.pictures import Box, pictures

CONFIDENT = 0.7  # YuNet's score; real faces of the test clips score above 0.8
PADDING = 0.3  # of the face's width and height, on every side; the reference's
_MINE = threading.local()
_LOADING = threading.Lock()
LONGEST = 640  # pixels: larger pictures are made smaller before the search, which faces of this size do not need


def face_box(path: Path | str, detector: Path, *, count: int, start: float = 0.0, end: float | None = None) -> Box | None:
    """The best face of the first of `count` pictures that shows one, padded; as fractions of the picture. None: no face in any.

    `detector` is a YuNet file (.onnx). Raises Unreadable as `pictures` does, UserError where the detector cannot be used.
    """
    find, previous = load_detector(detector), None
    for picture in pictures(path, count=count, start=start, end=end):
        box = None if picture is previous else face_in(find, picture)
        if box is not None:
            return box
        previous = picture
    return None


def face_in(find: Any, picture: np.ndarray) -> Box | None:
    """RGB uint8 (H, W, 3) -> the padded box of the most confident face, or None."""
    import cv2

    scale = min(1.0, LONGEST / max(picture.shape[:2]))
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    small = bgr if scale == 1.0 else cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = small.shape[:2]
    find.setInputSize((width, height))
    faces = find.detect(small)[1]
    if faces is None or not len(faces):
        return None
    left, top, across, down = (float(value) for value in max(faces, key=lambda face: face[-1])[:4])
    return padded(left / width, top / height, across / width, down / height)


def padded(left: float, top: float, width: float, height: float) -> Box:
    """The box with `PADDING` on every side, cut at the edges of the picture; fractions in, fractions out."""
    right, bottom = left + width * (1 + PADDING), top + height * (1 + PADDING)
    return max(left - width * PADDING, 0.0), max(top - height * PADDING, 0.0), min(right, 1.0), min(bottom, 1.0)


def load_detector(path: Path) -> Any:
    """This thread's YuNet detector: one cannot serve two threads. Raises UserError: no OpenCV, no such file, not a YuNet file."""
    kept = vars(_MINE).setdefault("detectors", {})
    if path not in kept:
        with _LOADING:  # the log level is the whole process's
            kept[path] = _open_detector(path)
    return kept[path]


def _open_detector(path: Path) -> Any:
    try:
        import cv2
    except ImportError:
        raise UserError("frames.face: finding faces needs OpenCV; pip install crossfade[faces]") from None
    if not Path(path).is_file():
        raise UserError(f"frames.face: {path}: no such file; give a YuNet detector (.onnx), or null for the whole picture")
    said = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # OpenCV 5 warns of its own defaults on stderr
    try:
        return cv2.FaceDetectorYN.create(str(path), "", (320, 320), CONFIDENT)
    except cv2.error:
        raise UserError(f"frames.face: {path} is not a YuNet detector (.onnx) that OpenCV can load") from None
    finally:
        cv2.utils.logging.setLogLevel(said)
