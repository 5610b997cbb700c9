"""Making a model as sure as it is right: probabilities changed by a temperature or a line that validation clips decide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crossfade.evaluation.predictions import Predictions

TINY = np.finfo(np.float64).tiny  # a probability of 0 has a logarithm after all
COLDEST, HOTTEST = 0.1, 10.0  # temperatures: where all validation clips are right, the likelihood alone would go on for ever
FARTHEST = 10.0  # nats that a class may be shifted by


def logits(table: Predictions) -> np.ndarray:
    """The logarithms of the probabilities, float64 (N, C)."""
    return np.log(np.clip(table.probability, TINY, None))


def with_logits(table: Predictions, values: np.ndarray) -> Predictions:
    """The same clips with the softmax of these (N, C)."""
    return replace(table, probability=_softmax(values))


def with_temperature(table: Predictions, temperature: float) -> Predictions:
    """Softer above 1, harder below; what is most probable remains so."""
    return with_logits(table, logits(table) / temperature)


def shifted(table: Predictions, code: int, by: float) -> Predictions:
    """With `by` nats added to the logit of one class."""
    return with_logits(table, logits(table) + by * np.eye(len(table.classes))[code])


def temperature(table: Predictions) -> float:
    """The temperature at which the known clips are most likely (arXiv 1706.04599, section 4.2), within 0.1 and 10."""
    from scipy.optimize import minimize_scalar

    known = table.known()
    values = logits(known)
    span = np.log([COLDEST, HOTTEST])
    found = minimize_scalar(
        lambda log: _surprise(values * np.exp(-log), known.true), bounds=span, method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def slope_and_bias(table: Predictions, code: int) -> tuple[float, float]:
    """The scale of the logits and the nats added to one class at which the known clips are most likely.

    Bias-corrected temperature scaling (arXiv 1901.06852; of two classes the same as Platt scaling). The mean probability
    of the class is then its share among these clips, whatever balance of classes the model was trained with.
    """
    from scipy.optimize import minimize

    known = table.known()
    values, one = logits(known), np.eye(len(table.classes))[code]
    bounds = [(1 / HOTTEST, 1 / COLDEST), (-FARTHEST, FARTHEST)]
    found = minimize(lambda at: _surprise(values * at[0] + at[1] * one, known.true), x0=[1.0, 0.0], bounds=bounds, method="L-BFGS-B")
    return float(found.x[0]), float(found.x[1])


def straightened(table: Predictions, code: int, slope: float, bias: float) -> Predictions:
    """The probabilities that `slope_and_bias` asks for."""
    return shifted(with_temperature(table, 1 / slope), code, bias)


def _surprise(values: np.ndarray, true: np.ndarray) -> float:
    """Mean negative log-likelihood of logits (N, C)."""
    from scipy.special import logsumexp

    return float(np.mean(logsumexp(values, axis=1) - values[np.arange(len(true)), true]))


def _softmax(values: np.ndarray) -> np.ndarray:
    raised = np.exp(values - values.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)
