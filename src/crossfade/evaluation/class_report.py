"""Precision, recall, F1 and support of every class as a text of aligned columns, the way that scikit-learn prints it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crossfade.evaluation.scores import ratio

HEADERS = ("precision", "recall", "f1-score", "support")


def class_report(true: np.ndarray, said: np.ndarray, classes: Sequence[str], *, several: bool, digits: int = 3) -> str:
    """Bool (N, C), bool (N, C) -> text; 0 where a share is not defined. `several`: a clip may have several classes at once."""
    hits, support, predicted = (part.sum(0).astype(np.float64) for part in (true & said, true, said))
    rows = _shares(hits, support, predicted)
    weights = support / support.sum() if support.sum() else np.zeros(len(support))
    means = {"macro avg": rows.mean(0), "weighted avg": weights @ rows}
    width = max(*map(len, classes), len("weighted avg"), digits)
    total, row = int(support.sum()), "{:>{width}s} " + " {:>9.{digits}f}" * 3 + " {:>9}\n"

    def line(name: str, shares: np.ndarray, count: float) -> str:
        return row.format(name, *shares, int(count), width=width, digits=digits)

    text = " " * width + " " + "".join(f" {header:>9}" for header in HEADERS) + "\n\n"
    text += "".join(line(name, shares, count) for name, shares, count in zip(classes, rows, support, strict=True)) + "\n"
    micro = _shares(hits.sum(keepdims=True), support.sum(keepdims=True), predicted.sum(keepdims=True))[0]
    if several:
        clips = _shares((true & said).sum(1), true.sum(1), said.sum(1)).mean(0)
        means = {"micro avg": micro, **means, "samples avg": clips}
    else:
        text += f"{'accuracy':>{width}s} " + " " * 20 + f" {micro[0]:>9.{digits}f} {total:>9}\n"
    return text + "".join(line(name, shares, total) for name, shares in means.items())


def _shares(hits: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(C,) each -> precision, recall and F1 (C, 3)."""
    return np.stack([ratio(hits, predicted), ratio(hits, support), ratio(2 * hits, support + predicted)], axis=1)
