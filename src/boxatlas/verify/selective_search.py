"""Selective search: how alike two regions are, before and after a merge, and the segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from boxatlas.ops.felzenszwalb import felzenszwalb
from boxatlas.ops.grouping import similarity, union
from boxatlas.ops.regions import Regions, codes, describe
from boxatlas.verify.case import Case, UnsupportedError, expect

_KINDS = {"color": "colour", "texture": "texture", "size": "size", "fill": "fill"}


def selective_search(case: Case) -> dict[str, Any]:
    """Each output is one call: a similarity of given regions, or a segmentation."""
    out = {}
    for entry in case.outputs:
        call = case.calls[entry["call"]]
        given = {name: value.numpy() for name, value in case.arguments(call).items()}
        out[entry["name"]] = _call(call["function"], {**entry["params"], **call["params"]}, given)
    return out


def _call(function: str, params: Mapping[str, Any], given: dict[str, np.ndarray]) -> np.ndarray:
    if function == "graph_segmentation":
        return felzenszwalb(given["image"], params["k"], params["sigma"], params["min_size"])
    if function not in ("similarity", "similarity_after_merge"):
        raise UnsupportedError(f"function {function}")
    expect(
        params,
        kind=tuple(_KINDS),
        range=([0, 256],),
        normalise=("total",),
        width_offset=(1,),
        merge=("size_weighted",),
        against=("all_others_ascending",),
    )
    regions = _regions(given["image"], given["regions"], params)
    if function == "similarity":
        pairs = given["pairs"]
    else:
        first, second = params["merge_regions"]
        regions = union(regions, first, second)
        others = [i for i in range(len(regions)) if i not in (first, second)]
        pairs = np.array([[first, other] for other in others]).reshape(-1, 2)
    return similarity(regions, pairs, [_KINDS[params["kind"]]])


def _regions(image: np.ndarray, labels: np.ndarray, params: Mapping[str, Any]) -> Regions:
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    bins = {"colour_bins": params["bins"]} if "bins" in params else {}
    labels = np.ascontiguousarray(labels, np.int32)
    return describe(codes(planes, **bins), labels, int(labels.max()) + 1, **bins)


CASES = {"op_selective_search_similarity": selective_search}
