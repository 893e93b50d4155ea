"""boxatlas eval with several looks at each image."""

from __future__ import annotations

import json
from pathlib import Path


def test_scales_and_flips(say, checkpoint: Path, made_scenes: Path) -> None:
    common = ("eval", checkpoint, "--data", made_scenes, "--split", "val", "--no-speed")
    code, out, err = say(*common, "--scales", "1,1.34", "--flip", "--json", "--device", "cpu")
    assert code == 0, err
    assert 0 <= json.loads(out)["mAP"] <= 1
    code, _, err = say(*common, "--scales", "big")
    assert code == 2
    assert "--scales" in err
