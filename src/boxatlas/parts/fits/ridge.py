"""R-CNN's box regression: ridge regression from features to the shift and stretch of a box.

Girshick et al. 2014, arXiv 1311.2524, section 3.5 and appendix C.
Shape letters: T boxes, D width of a feature, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class RidgeRule:
    """min_iou: boxes that overlap an object by more learn; ridge: lambda, on the sum of squares;
    whitening: added to the variances of the targets before they are made white; norm: features
    are scaled to this mean norm."""

    min_iou: float = 0.6
    ridge: float = 1000.0
    whitening: float = 1e-3
    norm: float = 20.0


class Ridge(NamedTuple):
    """targets = (features, 1) @ beta @ inverse + mean. beta [D + 1, 4], its last row the constant
    feature's; mean [4]; whitening and its inverse [4, 4]. All float64."""

    beta: Tensor
    mean: Tensor
    whitening: Tensor
    inverse: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """Deltas [T, 4] of features [T, D]."""
        weight, bias = self.linear()
        return features.double() @ weight + bias

    def linear(self) -> tuple[Tensor, Tensor]:
        """(weight [D, 4], bias [4]): the whole prediction as one linear layer."""
        whole = self.beta @ self.inverse
        return whole[:-1], whole[-1] + self.mean


def fit_ridge(features: Tensor, targets: Tensor, rule: RidgeRule) -> Ridge:
    """The least squares of whitened targets [T, 4] on features [T, D], in closed form.

    The targets are centred and made white, so that the four weigh the same; the constant feature
    is regularised as the others are. Solved with T x T or D x D unknowns, whichever is less.
    """
    targets = targets.double()
    mean = targets.mean(0)
    centred = targets - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(targets))
    root = (values.clamp(min=0) + rule.whitening).sqrt()
    whitening = vectors @ torch.diag(1 / root) @ vectors.T
    inverse = vectors @ torch.diag(root) @ vectors.T
    x = torch.cat([features.double(), features.new_ones(len(features), 1).double()], 1)
    return Ridge(_solve(x, centred @ whitening, rule.ridge), mean, whitening, inverse)


def _solve(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """(x'x + ridge I)^-1 x'y = x'(xx' + ridge I)^-1 y."""
    wide = x.shape[0] < x.shape[1]
    gram = x @ x.T if wide else x.T @ x
    factor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram), dtype=gram.dtype))
    return x.T @ torch.cholesky_solve(y, factor) if wide else torch.cholesky_solve(x.T @ y, factor)
