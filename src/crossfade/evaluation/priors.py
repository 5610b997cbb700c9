"""How common the classes are where nobody has labelled: estimated from what a model says, never from labels."""

from __future__ import annotations

import numpy as np

ROUNDS, STILL = 10_000, 1e-10


def estimated_prior(probability: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) of unlabelled clips, and the shares (C,) of the classes the model is calibrated to -> shares (C,) there.

    Expectation maximisation after Saerens et al. 2002, doi:10.1162/089976602753284446, equation 9. It supposes that a class sounds the
    same in both places and only its frequency differs; where it does not, the estimate is wrong, and nothing here can tell.
    """
    ratio, prior = probability / source, np.asarray(source, dtype=np.float64)
    for _ in range(ROUNDS):
        joint = ratio * prior
        following = (joint / joint.sum(axis=1, keepdims=True)).mean(axis=0)
        if np.abs(following - prior).max() < STILL:
            return following
        prior = following
    return prior


def shift(target: float, source: float) -> float:
    """What a change of a class's share adds to its logit: logit(target) - logit(source), nats."""
    return _logit(target) - _logit(source)


def _logit(share: float) -> float:
    return float(np.log(share) - np.log1p(-share))
