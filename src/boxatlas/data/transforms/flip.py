"""No augmentation, and the mirror that nearly every method trains with."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from boxatlas.data.transforms.sample import Sample, View, rendered
from boxatlas.images import Preprocess
from boxatlas.options import Fraction, Options
from boxatlas.structures import Frame


class NoAugmentation(Options):
    """The image as detection sees it."""

    def __call__(
        self, sample: Sample, preprocess: Preprocess, rng: np.random.Generator
    ) -> tuple[Tensor, Frame, Sample]:
        return rendered(sample, View.whole(sample), preprocess)


class Flip(Options):
    """Mirrored left to right with probability p."""

    p: Fraction = 0.5

    def __call__(
        self, sample: Sample, preprocess: Preprocess, rng: np.random.Generator
    ) -> tuple[Tensor, Frame, Sample]:
        return rendered(sample, View.whole(sample, bool(rng.random() < self.p)), preprocess)
