"""R-CNN's SVMs and box regressors: the closed form, the mining, the cache that feeds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxatlas.boxes.coders import DeltaCoder
from boxatlas.errors import InputError
from boxatlas.parts.fits import feature_cache, svm
from boxatlas.parts.fits.feature_cache import FeatureCache
from boxatlas.parts.fits.ridge import RidgeRule, fit_ridge
from boxatlas.parts.fits.svm import SVMRule, feature_scale, mine
from boxatlas.verify import run


def track(items: Iterable[Any], text: str) -> Iterator[Any]:
    yield from items


@pytest.mark.parametrize("case", ["op_rcnn_svm", "op_rcnn_bbox_ridge"])
def test_equal_to_the_reference_vector(parity_dir: Path, case: str) -> None:
    assert [r.status for r in run(parity_dir, case)] == ["pass"]


@pytest.mark.slow
def test_the_network_equals_the_reference_vector(parity_dir: Path) -> None:
    assert [r.status for r in run(parity_dir, "rcnn_caffenet")] == ["pass"]


# -- box regression -------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "width"), [(30, 7), (9, 20)])
def test_ridge_solves_the_normal_equations(count: int, width: int) -> None:
    """More rows than columns and fewer: both ways of solving give the closed form."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(count, width)), rng.normal(size=(count, 4))
    rule = RidgeRule(ridge=3.0)
    fitted = fit_ridge(torch.tensor(x), torch.tensor(y), rule)
    ones = np.concatenate([x, np.ones((count, 1))], 1)
    white = (y - y.mean(0)) @ fitted.whitening.numpy()
    expected = np.linalg.solve(ones.T @ ones + 3.0 * np.eye(width + 1), ones.T @ white)
    np.testing.assert_allclose(fitted.beta.numpy(), expected, atol=1e-10)
    predicted = ones @ expected @ fitted.inverse.numpy() + y.mean(0)
    np.testing.assert_allclose(fitted.predict(torch.tensor(x)).numpy(), predicted, atol=1e-10)


def test_whitened_targets_are_white_and_come_back() -> None:
    y = torch.randn(500, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = y @ torch.tensor([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 2, 1], [0, 0, 0, 0.1]]).double()
    fitted = fit_ridge(torch.randn(500, 2), y, RidgeRule(whitening=0.0))
    white = (y - y.mean(0)) @ fitted.whitening
    torch.testing.assert_close(white.T @ white / 500, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(white @ fitted.inverse + fitted.mean, y)


def test_a_linear_law_is_found_as_lambda_goes_to_0() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 5, dtype=torch.float64, generator=generator)
    law = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    shift = torch.tensor([0.1, -0.2, 0.3, 0.0]).double()
    y = x @ law + shift
    weight, bias = fit_ridge(x, y, RidgeRule(ridge=1e-8)).linear()
    torch.testing.assert_close(weight, law, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        bias, torch.tensor([0.1, -0.2, 0.3, 0.0]).double(), atol=1e-6, rtol=0
    )


def test_the_box_that_is_learned_is_the_one_that_is_made() -> None:
    boxes, truth = torch.tensor([[10.0, 10, 30, 50]]), torch.tensor([[14.0, 5, 40, 41]])
    coder = DeltaCoder()
    torch.testing.assert_close(coder.decode(coder.encode(truth, boxes), boxes), truth)


# -- SVMs -----------------------------------------------------------------------------------------


def clouds(images: int = 12, boxes: int = 40, width: int = 6, classes: int = 2):
    """Features of boxes: two in each image are objects, one of each class, along its own axis."""
    rng = np.random.default_rng(5)
    features = rng.normal(0, 0.25, (images, boxes, width)).astype(np.float32)
    labels = np.full((images, boxes), -1)
    overlaps = rng.uniform(0, 0.29, (images, boxes, classes)).astype(np.float32)
    for c in range(classes):
        features[:, c, c] += 2.5
        labels[:, c] = c
        overlaps[:, c, c] = 1
        features[:, 2 + c, c] += 2.5  # boxes near an object look like it and are no negatives
        overlaps[:, 2 + c, c] = 0.5
    return features, overlaps, labels


def cached(folder: Path, features: np.ndarray) -> FeatureCache:
    cache = FeatureCache(folder, [features.shape[1]] * len(features), features.shape[2])
    for one in features:
        cache.add(one)
    return cache


def test_mining_separates_objects_from_all_negatives(tmp_path: Path) -> None:
    """Few negatives are ever held at once, but what was learned holds for all of them."""
    features, overlaps, labels = clouds()
    cache = cached(tmp_path, features)
    weights, biases, scale = mine(
        cache, overlaps.reshape(-1, 2), labels.ravel(), SVMRule(retrain=30), track
    )
    scores = features * scale @ weights.T + biases
    for c in range(2):
        assert (scores[..., c][labels == c] > 0).all()
        assert (scores[..., c][overlaps[..., c] < 0.3] < 0).all()
        assert (scores[:, 2 + c, c] > 0).all()  # what overlaps by half was not pushed away


def test_what_is_mined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All negatives of the first image, then the hard ones; a training after each `retrain` new."""
    features, overlaps, labels = clouds(classes=1, images=6)
    cache = cached(tmp_path, features)
    held: list[int] = []

    def trained(rows: np.ndarray, positive: np.ndarray, rule: SVMRule):
        held.append(int((~positive).sum()))
        return np.zeros(rows.shape[1]), -1.0  # every score is -1: all are hard, none is easy

    monkeypatch.setattr(svm, "linear_svm", trained)
    negatives = int((overlaps.reshape(6, 40)[0] < 0.3).sum())
    rule = SVMRule(retrain=2 * negatives - 1)
    mine(cache, overlaps.reshape(-1, 1), labels.ravel(), rule, track)
    # After the first image, after two more (more than `retrain` new), again, and at the last image.
    assert held == [negatives, 3 * negatives, 5 * negatives, 6 * negatives]

    def easy(rows: np.ndarray, positive: np.ndarray, rule: SVMRule):
        held.append(int((~positive).sum()))
        return np.zeros(rows.shape[1]), -1.5  # every score is -1.5: none is hard, all are easy

    held.clear()
    monkeypatch.setattr(svm, "linear_svm", easy)
    mine(cache, overlaps.reshape(-1, 1), labels.ravel(), rule, track)
    assert held == [negatives]  # they are let go after it, and nothing comes back


def test_a_class_without_objects_is_never_found(tmp_path: Path) -> None:
    features, overlaps, labels = clouds(images=3)
    cache = cached(tmp_path, features)
    labels[labels == 1] = -1
    weights, biases, _ = mine(cache, overlaps.reshape(-1, 2), labels.ravel(), SVMRule(), track)
    assert weights[0].any()
    assert not weights[1].any()
    assert biases[1] < -5


def test_a_class_without_negatives_is_never_found(tmp_path: Path) -> None:
    """Of two classes that no box misses there is nothing to tell objects from."""
    features, overlaps, labels = clouds(images=3)
    cache = cached(tmp_path, features)
    overlaps[..., 1] = np.maximum(overlaps[..., 1], 0.4)
    weights, biases, _ = mine(cache, overlaps.reshape(-1, 2), labels.ravel(), SVMRule(), track)
    assert weights[0].any()
    assert not weights[1].any()
    assert biases[1] < -5


def test_features_are_scaled_to_a_mean_norm_of_20() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 15.0]])  # norms 5 and 15
    assert feature_scale(rows, 20.0) == pytest.approx(2.0)
    assert feature_scale(np.zeros((2, 3)), 20.0) == 1.0


# -- the cache ------------------------------------------------------------------------------------


def test_a_cache_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    counts, rng = [3, 0, 5, 2], np.random.default_rng(0)
    features = [rng.normal(size=(n, 4)).astype(np.float16) for n in counts]
    first = FeatureCache(tmp_path, counts, 4)
    assert first.gigabytes == 2 * 10 * 4 / 1e9
    assert first.announced() == "features"
    assert "10 boxes of 4 numbers, 0.00 GB" in capsys.readouterr().err.replace("\n", " ")
    first.add(features[0])
    first.add(features[1])
    first.commit()
    first.add(features[2] * 0)  # was not noted: it is described again
    again = FeatureCache(tmp_path, counts, 4)
    assert again.done == 2
    again.add(features[2])
    again.add(features[3])
    for i, one in enumerate(features):
        assert np.array_equal(again.rows[again.of(i)], one)
    assert FeatureCache(tmp_path, [1, 2], 4).done == 0  # another set of boxes begins anew


def test_a_cache_without_room_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = type("Usage", (), {"free": 10})
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda folder: full)
    with pytest.raises(InputError, match="the disk has 0"):
        FeatureCache(tmp_path, [1000] * 1000, 4096)
