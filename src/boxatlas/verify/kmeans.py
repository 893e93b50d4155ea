"""YOLOv2's dimension clusters: k-means on widths and heights by IoU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from boxatlas.boxes.yolo import kmeans_priors, shape_iou
from boxatlas.verify.case import Case, UnsupportedError, expect


def clusters(case: Case) -> dict[str, Any]:
    """Each output's clustering; those of equal parameters are made once."""
    shapes = case.stored("boxes")
    done: dict[tuple[Any, ...], dict[str, Any]] = {}
    values = {}
    for entry in case.outputs:
        params = entry["params"]
        key = tuple(sorted((name, str(value)) for name, value in params.items()))
        if key not in done:
            done[key] = _clustered(shapes, params)
        quantity = entry.get("quantity", entry["name"].split(".")[0])
        values[entry["name"]] = done[key].get(quantity, done[key]["centroids"])
    return values


def _clustered(shapes: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    expect(
        params,
        init=["first_k"],
        ties=["first"],
        empty_cluster=["unchanged"],
        stop=["no_assignment_changes"],
        update=["mean", "median"],
    )
    distance = {"1-iou": "iou", "euclidean": "euclidean"}.get(params["distance"])
    if distance is None:
        raise UnsupportedError(f"distance {params['distance']!r}")
    k = params["k"]
    priors, own, iterations = kmeans_priors(
        shapes,
        k,
        distance=distance,  # pyright: ignore[reportArgumentType]
        update=params["update"],  # pyright: ignore[reportArgumentType]
        max_iterations=params["max_iterations"],
    )
    stopped = iterations < params["max_iterations"]
    return {
        "centroids": priors,
        "average_iou": shape_iou(shapes[:, None], priors).amax(1).mean().item(),
        "iterations": iterations - (stopped and not params.get("count_stopping_pass", True)),
        "cluster_sizes": own.bincount(minlength=k).tolist(),
    }


CASES = {"kmeans_iou": clusters}
