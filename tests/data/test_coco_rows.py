"""The compiled scan of COCO annotations says what the JSON parser says, or nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.sets import picture

from boxatlas.data import read
from boxatlas.data.formats import coco_rows
from boxatlas.data.masks import Masks
from boxatlas.errors import InputError

_INDENTS = st.sampled_from([None, 0, 2, "\t"])
_number = st.one_of(
    st.integers(-(10**7), 10**7),
    st.floats(-1e5, 1e5).map(lambda v: round(v, 6)).filter(lambda v: "e" not in str(v)),
)
_polygon = st.lists(_number, min_size=2, max_size=12).map(lambda p: p[: len(p) // 2 * 2])
# How long a busy machine takes to make an example says nothing of the code.
SLOWLY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_usual = st.fixed_dictionaries(
    {
        "id": st.integers(0, 10**12),
        "image_id": st.integers(0, 10**9),
        "category_id": st.integers(-5, 90),
        "bbox": st.lists(_number, min_size=4, max_size=4),
    },
    optional={
        "area": _number,
        "iscrowd": st.integers(0, 1),
        "segmentation": st.lists(_polygon, max_size=4),
    },
)
_UNUSUAL = (
    '{"id": 1, "image_id": 2, "category_id": 3}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4, 5]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, "4"]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, NaN]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 04]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4.]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, -]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4e1]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 1234567890123456789]}',
    '{"id": 1.5, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4]}',
    '{"id": "1", "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4], "iscrowd": 2}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4], "iscrowd": true}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4], "id": 5}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 5}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4], "i\\u0064": 5}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4],}',
    '{"id": 1 "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4], "area": null}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4], "segmentation": [[1]]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4], "segmentation": [[]]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2], 3]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4], "segmentation": [1, 2]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2],]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2,]]}',
    '{"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4], "segmentation": '
    '{"size": [1, 2], "counts": [2]}}',
)


@pytest.fixture(scope="module", autouse=True)
def _always():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_rows, "WORTH", 0)
        yield


@pytest.fixture(scope="module")
def scan(_always, tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "any.json"
    path.write_text("[]")
    found = coco_rows.scanner(path)
    assert found is not None
    found("{", 0)  # compiled here, so that no test waits for it
    return found


@SLOWLY
@given(things=st.lists(_usual, min_size=1, max_size=5), indent=_INDENTS)
def test_the_usual_shape_is_read_as_json_reads_it(scan, things, indent):
    text = json.dumps([*things, {}], indent=indent)
    rows, stop = scan(text, text.index("{"))
    assert len(rows) == len(things)
    assert text[stop:] == text[text.rindex("{") :]
    assert rows.objects() == things
    masks = Masks.packed([t.get("segmentation") or None for t in things])
    assert rows.masks.tobytes() == masks.data.tobytes()
    assert rows.mask_sizes.tolist() == np.diff(masks.offsets).tolist()
    for k, thing in enumerate(things):
        assert (rows.ids[k], rows.image_ids[k], rows.category_ids[k]) == (
            thing["id"],
            thing["image_id"],
            thing["category_id"],
        )
        assert rows.boxes[k].tolist() == thing["bbox"]
        assert rows.areas[k] == thing["area"] if "area" in thing else np.isnan(rows.areas[k])
        assert rows.crowd[k] == bool(thing.get("iscrowd"))


@pytest.mark.parametrize("text", _UNUSUAL)
def test_what_is_not_of_the_usual_shape_is_left_to_the_parser(scan, text):
    good = '{"id": 7, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4]}, '
    rows, stop = scan(f"[{good}{text}, {{}}]", 1)
    assert rows.ids.tolist() == [7]
    assert stop == 1 + len(good)


@SLOWLY
@given(things=st.lists(_usual, min_size=1, max_size=3), data=st.data())
def test_of_a_cut_or_spoilt_text_only_what_is_whole_is_read(scan, things, data):
    text = json.dumps([*things, {}])[1:-1]
    at = data.draw(st.integers(0, len(text) - 1))
    spoilt = text[:at] + data.draw(st.sampled_from(["", "[", "]", "{", '"', ",", "0", " ", "é"]))
    for broken in (text[:at], spoilt, spoilt + text[at + 1 :]):
        rows, stop = scan(broken, 0)
        if not len(rows):
            continue
        known = json.loads(f"[{broken[:stop]}{{}}]")[:-1]  # raises where it is no JSON
        assert rows.objects() == known
        assert rows.ids.tolist() == [thing["id"] for thing in known]
        assert rows.boxes.tolist() == [thing["bbox"] for thing in known]


def _folder(tmp_path: Path, annotations: list) -> Path:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train").mkdir()
    for i in range(3):
        picture(tmp_path / "train" / f"{i}.png", (40, 30))
    document = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 30} for i in range(3)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 4, "name": "dog"}],
        "annotations": annotations,
    }
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(document))
    return tmp_path


def _thing(id_: int, **more):
    return {
        "id": id_,
        "image_id": id_ % 3,
        "category_id": 1 + 3 * (id_ % 2),
        "bbox": [id_ % 7, 2.5, 3 + id_ % 5, 4],
        "iscrowd": 0,
        **more,
    }


def test_a_set_reads_the_same_with_and_without_the_scan(tmp_path, monkeypatch):
    rle = {"size": [40, 30], "counts": [3, 5, 1192]}
    shapes = ([[1, 2, 3.5, 4, 5, 6]], [[1, 1, 2, 2, 3, 1], [0, 0, 9, 9, 9.25, 1]], [], rle)
    things = [_thing(i, segmentation=shapes[i % 4], area=i + 0.5) for i in range(40)]
    things[9]["bbox"] = [1, 2, 3e1, 4]
    del things[8]["segmentation"], things[12]["area"]
    folder = _folder(tmp_path, things)
    monkeypatch.setenv("BOXATLAS_CACHE", str(tmp_path / "one"))
    scanned = read(folder)
    monkeypatch.setenv("BOXATLAS_CACHE", str(tmp_path / "two"))
    monkeypatch.setattr(coco_rows, "WORTH", 1 << 40)
    parsed = read(folder)
    for name in ("boxes", "labels", "ignore", "offsets", "areas", "sizes"):
        assert np.array_equal(getattr(scanned, name), getattr(parsed, name)), name
    assert scanned.masks is not None
    assert parsed.masks is not None
    assert scanned.masks[:] == parsed.masks[:]
    assert scanned.masks[:].count(rle) == 10


@pytest.mark.parametrize(
    ("spoil", "field", "value"),
    [
        ({"id": 3}, "annotations[8].id", 3),
        ({"image_id": 9}, "annotations[8].image_id", 9),
        ({"category_id": 2}, "annotations[8].category_id", 2),
        ({"bbox": [1, 2, 3, 1e12]}, "annotations[8].bbox[3]", 1e12),
        ({"bbox": [1, 2, 300000000000, 4]}, "annotations[8].bbox[2]", 300000000000),
        ({"bbox": [1, "two", 3, 4]}, "annotations[8].bbox[1]", "two"),
        ({"area": -5}, "annotations[8].area", -5),
        ({"iscrowd": "7"}, "annotations[8].iscrowd", "7"),
    ],
)
def test_a_flaw_is_named_as_without_the_scan(tmp_path, spoil, field, value):
    things = [_thing(i) for i in range(20)]
    things[8] |= spoil
    with pytest.raises(InputError) as caught:
        read(_folder(tmp_path, things))
    assert caught.value.field == field
    assert f"(got {value!r})" in str(caught.value)
