"""Broken files: one clear error or a whole table; never a traceback, a hang or a silent drop."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sets import picture, table_of, two_images, write_set

from boxatlas.data import detect_format, read
from boxatlas.data.formats import FORMATS
from boxatlas.data.formats.building import Builder, number
from boxatlas.data.formats.places import Place
from boxatlas.data.table import Table
from boxatlas.data.writing import WRITERS
from boxatlas.errors import InputError

MANY = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
TOKENS = [b"NaN", b"null", b"-1e999", b'"x"', b"{", b"}", b"[", b"]", b",", b"<", b">", b"&",
          b"\0", b"\xff\xfe", b"\r\n", b"../", b"1e400", b"true", b":", b"\xc3\xa9", b"-5",
          b"0.1 0.2",
          b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"*a", b"\n",
          b"!!python/object:os.system"]  # fmt: skip


def both_ways(folder: Path, layout: str) -> None:
    """Strict reading gives a table or an InputError; gathering gives the flaws besides."""
    for read_it in (
        lambda: read(folder, None, layout),
        lambda: FORMATS[layout].read(Place(folder), None, Builder(strict=False)),
    ):
        said = ""
        try:
            table = read_it()
        except InputError as error:
            said = str(error)
        else:
            assert isinstance(table, Table)
            assert len(table.offsets) == len(table) + 1
        assert not said or (str(folder) in said and "\n" not in said)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    polygon = [[[10.0, 20.0, 60, 20, 60, 90]], None, None, None, None]
    table = two_images()
    table = table_of(
        [table.boxes[table.objects(i)].tolist() for i in range(3)],
        [table.labels[table.objects(i)].tolist() for i in range(3)],
        [tuple(s) for s in table.sizes.tolist()],
        masks=polygon,
    )
    return {layout: write_set(tmp_path_factory.mktemp(layout), table, layout) for layout in WRITERS}


@MANY
@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("layout", list(WRITERS))
def test_damaged_annotations_never_end_in_a_traceback(whole, layout: str, seed: int):
    folder, draw = whole[layout], random.Random(seed)
    files = Place(folder).paths(FORMATS[layout].annotation_names(Place(folder)))
    path = draw.choice(files)
    before = path.read_bytes()
    data = bytearray(before)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(data) + 1)
        what = draw.randrange(4)
        if what == 0:
            data[at:at] = draw.choice(TOKENS)
        elif what == 1:
            del data[at : at + draw.randint(1, 30)]
        elif what == 2:
            data = data[:at]
        elif at < len(data):
            data[at] = draw.randrange(256)
    path.write_bytes(data)
    try:
        both_ways(folder, layout)
    finally:
        path.write_bytes(before)


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.integers(), max_size=2),
    st.just({}),
)


@MANY
@given(
    values=st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "bbox",
                    "category_id",
                    "image_id",
                    "segmentation",
                    "area",
                    "id",
                    "iscrowd",
                    "bbox.0",
                    "bbox.2",
                    "segmentation.0",
                ]
            ),
            junk,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_each_coco_annotation_is_kept_or_named(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("coco")
    picture(folder / "train" / "a.png", (20, 30))
    things = []
    for k, (key, value) in enumerate(values):
        thing = {"id": k + 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12,
                 "iscrowd": 0, "segmentation": [[1, 2, 4, 2, 4, 6]]}  # fmt: skip
        name, _, place = key.partition(".")
        if place:
            thing[name][int(place)] = value
        else:
            thing[name] = value
        things.append(thing)
    (folder / "annotations").mkdir()
    document = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": things,
    }
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(document))
    builder = Builder(strict=False)
    table = FORMATS["coco"].read(Place(folder), "train", builder)
    assert len(table.labels) + len(builder.problems) == len(things)
    for problem in builder.problems:
        assert "annotations[" in str(problem)


@MANY
@given(lines=st.lists(st.text(alphabet="0123456789. -naifNe\t", max_size=30), max_size=6))
def test_each_yolo_line_is_kept_or_named(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("yolo")
    picture(folder / "images" / "train" / "a.png", (20, 30))
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "data.yaml").write_text("train: images/train\nnames: [a, b]\n")
    (folder / "labels" / "train" / "a.txt").write_text("\n".join(lines))
    builder = Builder(strict=False)
    table = FORMATS["yolo"].read(Place(folder), "train", builder)
    filled = [line for line in lines if line.strip()]
    assert len(table.labels) + len(builder.problems) == len(filled)


@MANY
@given(values=st.lists(st.text(alphabet="0123456789.-naife ", max_size=6), min_size=4, max_size=4))
def test_each_voc_object_is_kept_or_named(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("voc")
    picture(folder / "JPEGImages" / "a.png", (20, 30))
    sides = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{s}>{v}</{s}>" for s, v in zip(sides, values, strict=True))
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "a.xml").write_text(
        f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
    )
    builder = Builder(strict=False)
    table = FORMATS["voc"].read(Place(folder), None, builder)
    assert len(table.labels) + len(builder.problems) == 1


WRONG = {
    "entities": (
        "voc",
        "Annotations/0.xml",
        "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><annotation>&b;</annotation>",
        "entities",
    ),
    "cut off": ("voc", "Annotations/0.xml", "<annotation><object>", "not valid XML"),
    "other root": ("voc", "Annotations/0.xml", "<html><body>no</body></html>", "no VOC annotation"),
    "leaves": ("voc", "ImageSets/Main/train.txt", "../../secret\n", "leaves the folder"),
    "class twice": ("voc", "classes.txt", "cat\n\ndog\ncat\ntea pot\n", "line 4: two classes"),
    "cut json": ("coco", "annotations/instances_train.json", '{"images": [{"id": 1', "valid JSON"),
    "json leaves": (
        "coco",
        "annotations/instances_train.json",
        '{"images": [{"id": 1, "file_name": "../a.png"}], "annotations": [], "categories": []}',
        "leaves the folder",
    ),
    "deep json": (
        "coco",
        "annotations/instances_train.json",
        '{"images": ' + "[" * 200000,
        "nested too deep|valid JSON",
    ),
    "long number": (
        "coco",
        "annotations/instances_train.json",
        f'{{"images": [{{"id": 1, "file_name": "0.png", "width": {"9" * 5000}}}]}}',
        "too many digits",
    ),
    "long name": (
        "coco",
        "annotations/instances_train.json",
        '{"images": [{"id": 1, "file_name": "a/' + "b" * 5000 + '"}]}',
        "image is missing",
    ),
    "long number, fiftyone": (
        "fiftyone",
        "train/labels.json",
        f'{{"a": {"9" * 5000}}}',
        "too many digits",
    ),
    "yaml": ("yolo", "data.yaml", "names: [a, b\n", "not valid YAML"),
    "yaml tag": ("yolo", "data.yaml", "names: !!python/object/apply:os.getcwd []\n", "YAML"),
    "list": ("labelstudio", "tasks.json", '[{"data": {"image": 5}}]', "data.image"),
    "fiftyone": ("fiftyone", "train/labels.json", '{"classes": [], "labels": 3}', "labels"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_the_error_names_the_file_and_what_is_wrong(tmp_path: Path, name: str):
    layout, file, text, said = WRONG[name]
    write_set(tmp_path, two_images(), layout)
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path, None if layout == "labelstudio" else "train", layout)  # tasks say splits
    assert file in str(caught.value)


@pytest.mark.parametrize("text", ["1_0", "\uff11\uff10", "ten", "", None, "nan", "1e10"])
def test_only_what_other_programs_read_as_a_number_is_one(text: str | None):
    with pytest.raises(InputError, match="field: is "):
        number(text, Path("file"), "field")


@pytest.mark.parametrize("data", [b"", bytes(range(256)), b"{", b"[{"])
@pytest.mark.parametrize("name", ["tasks.json", "instances.json", "other.json"])
def test_boxes_whose_annotations_are_broken_are_no_set_of_classes(tmp_path: Path, name, data):
    for split in ("cats", "dogs"):
        picture(tmp_path / split / "a.png", (20, 30))
    assert detect_format(tmp_path) == "folders"
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=name):
        read(tmp_path)


def test_a_folder_of_a_splits_name_is_no_class(tmp_path: Path):
    picture(tmp_path / "train" / "a.png", (20, 30))
    picture(tmp_path / "val" / "b.png", (20, 30))
    with pytest.raises(InputError, match="holds no data set"):
        read(tmp_path)
    assert read(tmp_path, format="folders").classes == ("train", "val")


def test_nothing_to_read_is_said(tmp_path: Path):
    with pytest.raises(InputError, match="holds no data set"):
        read(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="holds no data set"):
        read(tmp_path / "file")


def test_a_folder_that_is_not_there_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path / "gone")
    assert str(caught.value) == f"{tmp_path / 'gone'}: no such folder"
