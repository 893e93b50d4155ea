"""Dimension clusters: the vector, what k-means guarantees, and clusters that are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sets import table_of

from boxatlas.data.anchors import cluster, curve, plot, quality, shapes_of
from boxatlas.errors import InputError
from boxatlas.verify.runner import run


def test_the_kmeans_vector(parity_dir: Path):
    (result,) = run(parity_dir, "kmeans_iou")
    assert result.status == "pass", result.reason
    assert len(result.outcomes) == 72  # centroids, average, iterations and sizes of k = 1..9, twice


def test_shapes_are_fractions_of_the_image_and_of_a_letterboxed_input():
    table = table_of([[[0, 0, 50, 20], [5, 5, 5, 9]]], [[0, 0]], [(100, 200)])
    np.testing.assert_allclose(shapes_of(table), [[0.25, 0.2]])
    np.testing.assert_allclose(shapes_of(table, (400, 400)), [[0.25, 0.1]])


def blobs(rng: np.random.Generator, centres: list[tuple[float, float]], each: int) -> torch.Tensor:
    made = [np.array(c) * rng.uniform(0.95, 1.05, (each, 2)) for c in centres]
    return torch.from_numpy(rng.permutation(np.concatenate(made)))


def test_clusters_that_are_there_are_found_whatever_comes_first():
    centres = [(0.05, 0.1), (0.2, 0.1), (0.3, 0.6), (0.8, 0.7)]
    for seed in range(5):
        shapes = blobs(np.random.default_rng(seed), centres, 60)
        found = cluster(shapes, 4, seed=seed)
        np.testing.assert_allclose(found.shapes, centres, rtol=0.03)
        assert found.counts == (60, 60, 60, 60)
        assert found.average_iou > 0.93


def test_the_average_iou_by_hand():
    """One box is the prior, the other half as wide: (1 + 1/2) / 2."""
    shapes = torch.tensor([[0.4, 0.2], [0.2, 0.2]], dtype=torch.float64)
    assert quality(shapes, shapes[:1]) == (0.75, (2,))


def test_more_priors_fit_better_and_iou_beats_euclid():
    shapes = torch.from_numpy(0.02 + 0.9 * np.random.default_rng(0).random((500, 2)) ** 2)
    rows = curve(shapes, [1, 3, 5, 9])
    average = [row["iou"] for row in rows]
    assert average == sorted(average)
    assert all(row["iou"] > row["euclidean"] for row in rows[1:])


def test_a_seed_repeats_and_too_few_boxes_are_refused():
    shapes = torch.from_numpy(np.random.default_rng(1).random((50, 2)))
    assert torch.equal(cluster(shapes, 5, seed=3).shapes, cluster(shapes, 5, seed=3).shapes)
    with pytest.raises(InputError, match="fewer boxes"):
        cluster(shapes[:3], 5)


def test_the_plot_is_a_picture(tmp_path: Path):
    from PIL import Image

    shapes = torch.from_numpy(np.random.default_rng(2).random((40, 2)))
    plot(curve(shapes, [1, 2]), shapes, cluster(shapes, 2), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert min(image.size) > 300
