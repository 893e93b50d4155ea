"""Linear SVMs on cached features, one class against the rest, with hard negatives mined.

Girshick et al. 2014, arXiv 1311.2524, section 2.3 and appendix B; Felzenszwalb et al., PAMI 2010.
Shape letters: N images, T boxes of all images, D width of a feature, K classes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxatlas.parts.base import Track
from boxatlas.parts.fits.feature_cache import FeatureCache

Floats = NDArray[np.float32]
_NEVER = -10.0  # the bias of a class that cannot be trained


@dataclass(frozen=True)
class SVMRule:
    """How the SVMs are trained; the values are those of the authors' program.

    C: weight of the hinge losses; positive_weight: of a positive's beside a negative's; bias: value
    of the constant feature, whose weight is regularised as the others are. negative_iou: boxes
    below it with every object of a class are its negatives. A negative is hard from a score of
    `hard` on, and dropped again below `evict` after a training, of which there is one after every
    `retrain` new negatives. norm: features are scaled to this mean norm.
    """

    C: float = 1e-3
    positive_weight: float = 2.0
    bias: float = 10.0
    negative_iou: float = 0.3
    hard: float = -1.0001
    evict: float = -1.2
    retrain: int = 2000
    norm: float = 20.0
    tolerance: float = 0.1


def linear_svm(
    features: NDArray[np.floating], positive: NDArray[np.bool_], rule: SVMRule
) -> tuple[NDArray[np.float64], float]:
    """(weights [D], bias) that minimise |w|^2 / 2 + v^2 / 2 + C sum c_i hinge, bias = rule.bias v.

    features [T, D]; c is positive_weight for positives, else 1. Solved by liblinear in the dual.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    solver: Any = LinearSVC(
        loss="hinge",
        dual=True,  # pyright: ignore
        C=rule.C,
        tol=rule.tolerance,
        intercept_scaling=rule.bias,  # pyright: ignore
        class_weight={1: rule.positive_weight},
        random_state=0,
        max_iter=100_000,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        solver.fit(np.asarray(features, np.float64), positive.astype(np.int8))
    return solver.coef_[0], float(solver.intercept_[0])


def svm_objective(
    weights: NDArray[np.float64],
    bias: float,
    features: NDArray[np.floating],
    positive: NDArray[np.bool_],
    rule: SVMRule,
) -> float:
    """What `linear_svm` minimises."""
    sign = np.where(positive, 1.0, -1.0)
    hinge = np.maximum(0, 1 - sign * (features @ weights + bias))
    cost = np.where(positive, rule.positive_weight, 1.0) @ hinge
    return float(0.5 * (weights @ weights + (bias / rule.bias) ** 2) + rule.C * cost)


def feature_scale(rows: NDArray[np.floating], norm: float) -> float:
    """What features are multiplied by so that their mean norm is `norm`."""
    mean = float(np.linalg.norm(np.asarray(rows, np.float64), axis=1).mean()) if len(rows) else 0
    return norm / mean if mean > 0 else 1.0


def sampled_scale(cache: FeatureCache, images: int, norm: float) -> float:
    """The scale by the mean norm of at most 200 boxes of at most 200 images."""
    rng = np.random.default_rng(0)
    rows = []
    for i in np.sort(rng.permutation(images)[:200]):
        part = cache.of(int(i))
        chosen = rng.permutation(part.stop - part.start)[:200] + part.start
        rows.append(np.asarray(cache.rows[np.sort(chosen)], np.float32))
    return feature_scale(np.concatenate(rows) if rows else np.zeros((0, 1)), norm)


@dataclass
class _Class:
    """One class in training: the rows of its positives and of the negatives it holds."""

    positives: NDArray[np.int64]
    negatives: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    added: int = 0


def mine(
    cache: FeatureCache, overlaps: Floats, labels: NDArray[np.int64], rule: SVMRule, track: Track
) -> tuple[Floats, Floats, float]:
    """Train K SVMs in one pass over the images: -> weights [K, D], biases [K], the scale.

    overlaps [T, K]: each box's largest IoU with an object of a class; labels [T]: the class of a
    box that is itself an object to learn, else -1. Weights are for features times the scale. A
    class without positives, or without negatives, gets a score that is never high.
    """
    images, classes = len(cache.offsets) - 1, overlaps.shape[1]
    scale = sampled_scale(cache, images, rule.norm)
    width = cache.rows.shape[1]
    weights, biases = np.zeros((classes, width)), np.zeros(classes)
    held = [_Class(np.flatnonzero(labels == c)) for c in range(classes)]
    trained = np.zeros(classes, bool)
    for i in track(range(images), "mining hard negatives"):
        part = cache.of(i)
        features = np.asarray(cache.rows[part], np.float32) * scale
        scores = features @ weights.T.astype(np.float32) + biases.astype(np.float32)
        # Of the first image every negative is taken, afterwards those that score too high.
        hard = (overlaps[part] < rule.negative_iou) & ((scores > rule.hard) | (i == 0))
        for c, one in enumerate(held):
            if not len(one.positives):
                continue
            new = np.flatnonzero(hard[:, c]) + part.start
            one.negatives = np.concatenate([one.negatives, new])
            one.added += len(new)
            due = i == 0 or one.added > rule.retrain or i == images - 1
            if due and len(one.negatives):
                weights[c], biases[c] = _trained(cache, one, scale, rule)
                trained[c] = True
    biases[~trained] = _NEVER
    return weights.astype(np.float32), biases.astype(np.float32), scale


def _trained(
    cache: FeatureCache, one: _Class, scale: float, rule: SVMRule
) -> tuple[NDArray[np.float64], float]:
    """Train on what the class holds, then let go of its easy negatives."""
    rows = np.concatenate([one.positives, one.negatives])
    features = np.asarray(cache.rows[rows], np.float64) * scale
    positive = np.arange(len(rows)) < len(one.positives)
    weights, bias = linear_svm(features, positive, rule)
    scores = features[len(one.positives) :] @ weights + bias
    one.negatives, one.added = one.negatives[scores >= rule.evict], 0
    return weights, bias
