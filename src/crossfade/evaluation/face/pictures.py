"""How far made pictures are from true ones, frame by frame: PSNR, SSIM and mean error, and the same of movement."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crossfade.clip import UserError

MOUTH = (32, 44, 96, 72)  # x, y, width, height in a face of 160 × 160: nose to chin as `face prepare` crops; else in proportion
OF = 160
WINDOW, SIGMA = 11, 1.5  # SSIM's Gaussian window: Wang et al. 2004, section III
C1, C2 = 0.01**2, 0.03**2
LEAST = 1e-10  # a mean squared error below this counts as this: 100 dB, above what any difference of 8-bit pictures up to 192 × 192 gives
CHUNK = 64  # frames at a time: 30 MB of intermediate values at 96 × 96

Region = tuple[slice, slice]  # rows, columns


def mouth(size: int) -> Region:
    """The rows and columns of the mouth in a face of size × size."""
    x, y, width, height = (edge * size / OF for edge in MOUTH)
    return slice(round(y), round(y + height)), slice(round(x), round(x + width))


def whole(size: int) -> Region:
    """All rows and columns."""
    return slice(0, size), slice(0, size)


def psnr(output: np.ndarray, target: np.ndarray, region: Region | None = None) -> np.ndarray:
    """(T, 3, S, S) twice, −1 … 1 -> (T,) in dB, of the range 0 … 1 and all channels; equal pictures have 100 dB."""
    error = _by_frame(output, target, region, lambda difference: (difference**2).mean((1, 2, 3), dtype=np.float64))
    return -10 * np.log10(np.maximum(error, LEAST))


def mae(output: np.ndarray, target: np.ndarray, region: Region | None = None) -> np.ndarray:
    """(T, 3, S, S) twice, −1 … 1 -> (T,) the mean absolute difference on the range 0 … 1."""
    return _by_frame(output, target, region, lambda difference: np.abs(difference).mean((1, 2, 3), dtype=np.float64))


def ssim(output: np.ndarray, target: np.ndarray, region: Region | None = None) -> np.ndarray:
    """(T, 3, S, S) twice, −1 … 1 -> (T,) the mean over channels and over all places whose window lies in the region."""
    return similarities(output, target, (region,))[0]


def similarities(output: np.ndarray, target: np.ndarray, regions: tuple[Region | None, ...]) -> list[np.ndarray]:
    """SSIM in several regions for the price of one: (T,) each."""
    _same(output, target)
    places = [_windows(region or whole(output.shape[-1])) for region in regions]
    maps = (_similarity(output[rows], target[rows]) for rows in _chunks(len(output)))
    found = [[each[:, :, rows, columns].mean((1, 2, 3), dtype=np.float64) for rows, columns in places] for each in maps]
    return [np.concatenate([row[i] for row in found]) if found else np.zeros(0) for i in range(len(places))]


def temporal(output: np.ndarray, target: np.ndarray, frames: np.ndarray, region: Region | None = None) -> np.ndarray:
    """How far the movement since the frame before is from the true one: mean |Δoutput − Δtarget| on the range 0 … 1.

    (T, 3, S, S) twice and the frames' numbers (T,) -> (T,); NaN where the frame before is not there.
    """
    _same(output, target)
    error, follows = np.full(len(frames), np.nan), np.flatnonzero(np.diff(frames) == 1) + 1
    for rows in _chunks(len(follows)):
        now = follows[rows]
        error[now] = mae(output[now] - output[now - 1], target[now] - target[now - 1], region)
    return error


def _by_frame(output: np.ndarray, target: np.ndarray, region: Region | None, measure: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A measure of the difference on the range 0 … 1, some frames at a time."""
    _same(output, target)
    rows, columns = region or whole(output.shape[-1])
    parts = [(output[some, :, rows, columns] - target[some, :, rows, columns]) / 2 for some in _chunks(len(output))]
    return np.concatenate([measure(part) for part in parts]) if parts else np.zeros(0)


def _chunks(frames: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, frames, CHUNK)]


def _windows(region: Region) -> Region:
    """The places in a map of SSIM, which begins half a window inside the picture, whose windows lie in a region of the picture."""
    rows, columns = (slice(part.start, part.stop - WINDOW + 1) for part in region)
    if rows.stop <= rows.start or columns.stop <= columns.start:
        raise UserError(
            f"SSIM looks through a window of {WINDOW} × {WINDOW} pixels, and this region of the picture is smaller; use a larger face"
        )
    return rows, columns


def _similarity(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(T, 3, S, S) twice -> the map (T, 3, S − 10, S − 10) of SSIM."""
    x, y = ((picture.astype(np.float32) + 1) / 2 for picture in (output, target))
    weights = _weights(x.shape[-1])
    mean_x, mean_y, squares, products = (_blurred(value, weights) for value in (x, y, x * x + y * y, x * y))
    both = mean_x * mean_y
    sum_of_squares = mean_x**2 + mean_y**2
    top = (2 * both + C1) * (2 * (products - both) + C2)
    return top / ((sum_of_squares + C1) * (squares - sum_of_squares + C2))


def _weights(size: int) -> np.ndarray:
    """(S, S − 10): a column holds the Gaussian of one place, so that blurring is a product of matrices."""
    gaussian = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    places = np.arange(size - WINDOW + 1)
    weights = np.zeros((size, len(places)), dtype=np.float32)
    weights[places[:, None] + np.arange(WINDOW), places[:, None]] = gaussian / gaussian.sum()
    return weights


def _blurred(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights.T @ (values @ weights)


def _same(output: np.ndarray, target: np.ndarray) -> None:
    if output.shape != target.shape or output.ndim != 4:
        raise UserError(f"pictures have shapes {output.shape} and {target.shape}; both should be (frames, 3, size, size)")
