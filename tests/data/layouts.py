"""Small sets as other programs export them, rebuilt after what their makers document.

Each image is black but for a white mark of `MARK` (x1, y1, x2, y2 in continuous pixels), and every
annotation is of that mark, so that where a box lies can be held against the pixels.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 100, 80
MARK = (12, 10, 52, 60)
X1, Y1, X2, Y2 = MARK
W, H = X2 - X1, Y2 - Y1
CORNERS = [X1, Y1, X2, Y1, X2, Y2, X1, Y2]
PAIRS = [[X1, Y1], [X2, Y1], [X2, Y2], [X1, Y2]]


def marked(path: Path) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[Y1:Y2, X1:X2] = 255
    for k, word in enumerate((str(path), path.name, str(path.parent))):  # no two are the same
        pixels[0, k] = np.array([*zlib.crc32(word.encode()).to_bytes(4, "big")])[:3] // 3
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def document(path: Path, content: Any) -> None:
    text(path, json.dumps(content))


# -- VOC: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html -----------------


def voc_xml(name: str, more: str = "", corner: int = 1) -> str:
    sides = (X1 + corner, Y1 + corner, X2, Y2)
    box = "".join(
        f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=True)
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    thing = f"<object><name>cat</name>{more}<difficult>0</difficult><bndbox>{box}</bndbox></object>"
    return f"<annotation><filename>{name}</filename>{size}{thing}</annotation>"


def voc_kit(root: Path) -> None:
    for stem, split in (("000001", "train"), ("000002", "val")):
        marked(root / f"JPEGImages/{stem}.png")
        text(root / f"Annotations/{stem}.xml", voc_xml(f"{stem}.png"))
        text(root / f"ImageSets/Main/{split}.txt", f"{stem}\n")
        text(root / f"ImageSets/Main/cat_{split}.txt", f"{stem}  1\n")
    text(root / "classes.txt", "cat\n")


def voc_parent(root: Path) -> None:
    voc_kit(root / "VOC2012")


def voc_labelimg(root: Path) -> None:
    """https://github.com/HumanSignal/labelImg: the XML is saved beside the image."""
    for stem in "ab":
        marked(root / f"{stem}.png")
        text(root / f"{stem}.xml", voc_xml(f"{stem}.png", "<pose>Unspecified</pose>"))


def voc_roboflow(root: Path) -> None:
    """https://roboflow.com/formats/pascal-voc-xml"""
    for split in ("train", "valid", "test"):
        marked(root / split / f"{split}_png.rf.1.png")
        text(root / split / f"{split}_png.rf.1.xml", voc_xml(f"{split}_png.rf.1.png"))
    text(root / "README.roboflow.txt", "exported\n")


def voc_cvat(root: Path) -> None:
    """https://docs.cvat.ai/docs/dataset_management/formats/format-voc/: edges, counted from 0."""
    marked(root / "JPEGImages/a.png")
    text(root / "Annotations/a.xml", voc_xml("a.png", "<occluded>0</occluded>", corner=0))
    text(root / "ImageSets/Main/default.txt", "a\n")
    text(
        root / "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n",
    )


def voc_annots(root: Path) -> None:
    marked(root / "images/a.png")
    text(root / "annots/a.xml", voc_xml("a.png"))


# -- COCO: https://cocodataset.org/#format-data ---------------------------------------------------


def coco_document(name: str, **more: Any) -> dict[str, Any]:
    thing = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [X1, Y1, W, H], "iscrowd": 0}
    return {
        "images": [{"id": 7, "file_name": name, "width": WIDTH, "height": HEIGHT}],
        "annotations": [{**thing, "area": W * H, **more}],
        "categories": [{"id": 3, "name": "cat"}],
    }


def coco_kit(root: Path) -> None:
    for split in ("train", "val"):
        marked(root / f"{split}2017" / "a.png")
        document(root / f"annotations/instances_{split}2017.json", coco_document("a.png"))
    captions = {"images": [], "annotations": [{"id": 1, "image_id": 7, "caption": "a cat"}]}
    document(root / "annotations/captions_train2017.json", captions)


def coco_roboflow(root: Path) -> None:
    """https://roboflow.com/formats/coco-json"""
    for split in ("train", "valid"):
        marked(root / split / "a.png")
        document(root / split / "_annotations.coco.json", coco_document("a.png"))


def coco_cvat(root: Path) -> None:
    """https://docs.cvat.ai/docs/dataset_management/formats/format-coco/"""
    marked(root / "images/a.png")
    more = {"segmentation": [], "attributes": {"occluded": False, "rotation": 0.0}}
    document(root / "annotations/instances_default.json", coco_document("a.png", **more))


def coco_keypoints(root: Path) -> None:
    marked(root / "val2017/a.png")
    more = {"keypoints": [0] * 51, "num_keypoints": 0}
    document(root / "annotations/person_keypoints_val2017.json", coco_document("a.png", **more))


def coco_masks(root: Path) -> None:
    """Masks without boxes, and a file name of another machine."""
    marked(root / "images/a.png")
    found = coco_document("C:\\Users\\me\\pictures\\a.png", segmentation=[CORNERS])
    del found["annotations"][0]["bbox"]
    document(root / "result.json", found)


# -- YOLO: https://docs.ultralytics.com/datasets/detect/ ------------------------------------------

ROW = f"{(X1 + X2) / 2 / WIDTH} {(Y1 + Y2) / 2 / HEIGHT} {W / WIDTH} {H / HEIGHT}"
POLYGON = " ".join(str(v / (HEIGHT if k % 2 else WIDTH)) for k, v in enumerate(CORNERS))


def yolo_set(root: Path, line: str, yaml: str, name: str = "data.yaml") -> None:
    for split in ("train", "val"):
        marked(root / f"images/{split}/{split}.png")
        text(root / f"labels/{split}/{split}.txt", line + "\n")
    text(root / name, f"train: images/train\nval: images/val\nnames:\n  0: cat\n{yaml}")


def yolo_ultralytics(root: Path) -> None:
    yolo_set(root, f"0 {ROW}", "path: ../datasets/coco8\n", "coco8.yaml")


def yolo_segments(root: Path) -> None:
    """https://docs.ultralytics.com/datasets/segment/ (and, with four corners, .../obb/)"""
    yolo_set(root, f"0 {POLYGON}", "")


def yolo_pose(root: Path) -> None:
    """https://docs.ultralytics.com/datasets/pose/"""
    yolo_set(root, f"0 {ROW} 0.1 0.2 2 0.3 0.4 1", "kpt_shape: [2, 3]\n")


def yolo_roboflow(root: Path) -> None:
    """https://roboflow.com/formats/yolov8-pytorch-txt"""
    for split in ("train", "valid"):
        marked(root / f"{split}/images/{split}.png")
        text(root / f"{split}/labels/{split}.txt", f"0 {ROW}")
    lists = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    text(root / "data.yaml", f"{lists}\nnc: 1\nnames: ['cat']\n")


def yolo_cvat(root: Path) -> None:
    """https://docs.cvat.ai/docs/dataset_management/formats/format-yolo-ultralytics/"""
    marked(root / "images/train/a.png")
    text(root / "labels/train/a.txt", f"0 {ROW}\n")
    text(root / "train.txt", "data/images/train/a.png\n")
    text(root / "data.yaml", "path: ./\ntrain: train.txt\nnames:\n  0: cat\n")


def yolo_beside(root: Path) -> None:
    """https://roboflow.com/formats/yolo-darknet-txt"""
    for split in ("train", "valid"):
        marked(root / f"{split}/{split}.png")
        text(root / f"{split}/{split}.txt", f"0 {ROW}")
        text(root / split / "_darknet.labels", "cat")


def darknet_cvat(root: Path) -> None:
    """https://docs.cvat.ai/docs/dataset_management/formats/format-yolo/"""
    marked(root / "obj_train_data/a.png")
    text(root / "obj_train_data/a.txt", f"0 {ROW}\n")
    text(root / "train.txt", "data/obj_train_data/a.png\n")
    text(root / "obj.names", "cat\n")
    text(root / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\n")


# -- Other programs -------------------------------------------------------------------------------


def labelme_5(root: Path) -> None:
    """https://github.com/wkentaro/labelme, version 5"""
    shape = {"label": "cat", "group_id": None, "description": "", "flags": {}, "mask": None}
    shapes = [
        {**shape, "shape_type": "rectangle", "points": [[X2, Y1], [X1, Y2]]},  # drawn leftwards
        {**shape, "shape_type": "polygon", "points": PAIRS},
    ]
    for stem, one in zip("ab", shapes, strict=True):
        marked(root / f"{stem}.png")
        document(
            root / f"{stem}.json",
            {
                "version": "5.5.0",
                "flags": {},
                "shapes": [one],
                "imagePath": f"{stem}.png",
                "imageData": None,
                "imageHeight": HEIGHT,
                "imageWidth": WIDTH,
            },
        )


def labelme_3(root: Path) -> None:
    """The same program's version 3: no types of shapes, no size, and folders of their own."""
    marked(root / "images/a.png")
    shape = {"label": "cat", "line_color": None, "fill_color": None, "points": PAIRS}
    head = {"version": "3.4.1", "flags": {}, "lineColor": [0, 255, 0, 128]}
    document(
        root / "annotations/a.json",
        {**head, "shapes": [shape], "imagePath": "..\\images\\a.png", "imageData": None},
    )


def csv_roboflow(root: Path) -> None:
    """https://roboflow.com/formats/tensorflow-object-detection-csv"""
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    for split in ("train", "valid"):
        marked(root / split / "a.png")
        row = f"a.png,{WIDTH},{HEIGHT},cat,{X1},{Y1},{X2},{Y2}\n"
        text(root / split / "_annotations.csv", head + row)


def csv_retinanet(root: Path) -> None:
    """https://github.com/fizyr/keras-retinanet#csv-datasets"""
    marked(root / "photos/a.png")
    marked(root / "photos/b.png")
    row = f"/home/me/photos/a.png,{X1},{Y1},{X2},{Y2},cat\n/home/me/photos/b.png,,,,,\n"
    text(root / "annotations.csv", row)
    text(root / "classes.csv", "cat,0\n")


def csv_files(root: Path) -> None:
    """One folder of images and a file for each split, semicolons and another order of columns."""
    for split in ("train", "test"):
        marked(root / f"images/{split}.png")
        row = f"cat;{split}.png;{X1};{X2};{Y1};{Y2}\n"
        text(root / f"{split}_labels.csv", f"label;image;xmin;xmax;ymin;ymax\n{row}")


RECT = {"name": "rect", "x": X1, "y": Y1, "width": W, "height": H}
POLYGON_OF_VIA = {
    "name": "polygon",
    "all_points_x": [X1, X2, X2, X1],
    "all_points_y": [Y1, Y1, Y2, Y2],
}


def via_1(root: Path) -> None:
    """https://www.robots.ox.ac.uk/~vgg/software/via/, version 1: regions are numbered."""
    for split in ("train", "val"):
        marked(root / split / "a.png")
        region = {"shape_attributes": POLYGON_OF_VIA, "region_attributes": {"name": "cat"}}
        image = {"fileref": "", "size": 9, "filename": "a.png", "regions": {"0": region}}
        document(root / split / "via_region_data.json", {"a.png9": image})


def via_2(root: Path) -> None:
    """Version 2's project: regions are a list, a class is one of several boxes to tick."""
    marked(root / "a.png")
    region = {"shape_attributes": RECT, "region_attributes": {"type": {"cat": True}}}
    image = {"filename": "a.png", "size": 9, "regions": [region], "file_attributes": {}}
    document(
        root / "project.json",
        {"_via_settings": {}, "_via_img_metadata": {"a.png9": image}, "_via_attributes": {}},
    )


def via_csv(root: Path) -> None:
    marked(root / "a.png")
    shape, kind = (json.dumps(v).replace('"', '""') for v in (RECT, {"class": "cat"}))
    head = "filename,file_size,file_attributes,region_count,region_id,"
    head += "region_shape_attributes,region_attributes\n"
    text(root / "via_export.csv", f'{head}a.png,9,"{{}}",1,0,"{shape}","{kind}"\n')


def cvat_images(root: Path) -> None:
    """https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/, version 1.1"""
    head = '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task>'
    head += "<labels><label><name>cat</name></label></labels></task></meta>"
    body = f'<box label="cat" source="manual" occluded="0" xtl="{X1}.0" ytl="{Y1}.0" xbr="{X2}.0" '
    body += f'ybr="{Y2}.0" z_order="0"></box>'
    run = f'<mask label="cat" rle="0, {W * H}" left="{X1}" top="{Y1}" width="{W}" height="{H}"/>'
    for n, shape in enumerate((body, run)):
        marked(root / f"images/{n}.png")
        subset = ("train", "Validation")[n]
        head += f'<image id="{n}" name="{n}.png" subset="{subset}" width="{WIDTH}" '
        head += f'height="{HEIGHT}">{shape}</image>'
    text(root / "annotations.xml", head + "</annotations>")


def cvat_video(root: Path) -> None:
    marked(root / "images/frame_000000.png")
    marked(root / "images/frame_000001.png")
    box = f'xtl="{X1}" ytl="{Y1}" xbr="{X2}" ybr="{Y2}" keyframe="1"'
    shapes = f'<box frame="0" outside="0" {box}/><box frame="1" outside="1" {box}/>'
    track = f'<track id="0" label="cat">{shapes}</track>'
    track += f'<track id="1" label="cat"><box frame="1" outside="0" {box}/></track>'
    text(root / "annotations.xml", f"<annotations><version>1.1</version>{track}</annotations>")


COORDINATES = {"x": (X1 + X2) / 2, "y": (Y1 + Y2) / 2, "width": W, "height": H}


def createml_roboflow(root: Path) -> None:
    """https://roboflow.com/formats/createml-json"""
    for split in ("train", "valid"):
        marked(root / split / "a.png")
        things = [{"label": "cat", "coordinates": COORDINATES}]
        image = {"image": "a.png", "annotations": things}
        document(root / split / "_annotations.createml.json", [image])


def createml_apple(root: Path) -> None:
    """https://developer.apple.com/documentation/createml: the other names of the same things."""
    marked(root / "a.png")
    things = [{"coordinates": COORDINATES, "label": "cat"}]
    document(root / "annotations.json", [{"imagefilename": "a.png", "annotation": things}])


def kitti_object(root: Path) -> None:
    """https://www.cvlibs.net/datasets/kitti/eval_object.php"""
    marked(root / "training/image_2/000000.png")
    row = f"cat 0.00 0 -1.57 {X1}.00 {Y1}.00 {X2}.00 {Y2}.00 1.5 1.6 3.7 1.0 1.5 8.4 0.01\n"
    text(root / "training/label_2/000000.txt", row)


def kitti_digits(root: Path) -> None:
    """https://github.com/NVIDIA/DIGITS: train/ and val/ of images and labels; results, a score."""
    for split in ("train", "val"):
        marked(root / f"{split}/images/a.png")
        row = f"cat 0.0 0 0.0 {X1} {Y1} {X2} {Y2} 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.9\n"
        text(root / f"{split}/labels/a.txt", row)


def visdrone_2019(root: Path) -> None:
    """https://github.com/VisDrone/VisDrone2018-DET-toolkit"""
    for split in ("train", "val", "test-dev"):
        marked(root / f"VisDrone2019-DET-{split}/images/{split}.png")
        row = f"{X1},{Y1},{W},{H},1,4,0,0\n"
        text(root / f"VisDrone2019-DET-{split}/annotations/{split}.txt", row)


def visdrone_2018(root: Path) -> None:
    """Lines that end with a comma, in one folder."""
    marked(root / "images/a.png")
    text(root / "annotations/a.txt", f"{X1},{Y1},{W},{H},1,4,0,0,\n")


def openimages_row(*, more: str = "") -> str:
    edges = f"{X1 / WIDTH},{X2 / WIDTH},{Y1 / HEIGHT},{Y2 / HEIGHT}"
    return f"0001eeaf4aed83f9,xclick,/m/01yrx,1,{edges},0,0,0,0,0{more}\n"


OPENIMAGES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,"
OPENIMAGES += "IsGroupOf,IsDepiction,IsInside"


def openimages_4(root: Path) -> None:
    """https://storage.googleapis.com/openimages/web/download_v7.html (boxes of version 4)"""
    for split in ("train", "validation"):
        marked(root / split / "0001eeaf4aed83f9.png")
        text(root / f"{split}-annotations-bbox.csv", f"{OPENIMAGES}\n{openimages_row()}")
    text(root / "class-descriptions-boxable.csv", "/m/01yrx,cat\n")


def openimages_6(root: Path) -> None:
    """Version 6: eight more columns, and a head over the names."""
    marked(root / "images/0001eeaf4aed83f9.png")
    clicks = "".join(f",XClick{n}X,XClick{n}Y" for n in range(1, 5))
    row = openimages_row(more=",0.1" * 8)
    text(root / "oidv6-train-annotations-bbox.csv", f"{OPENIMAGES}{clicks}\n{row}")
    names = "LabelName,DisplayName\n/m/01yrx,cat\n"
    text(root / "oidv6-class-descriptions.csv", names)


def huggingface_numbers(root: Path) -> None:
    """https://huggingface.co/docs/datasets/image_dataset#object-detection"""
    for split in ("train", "validation"):
        marked(root / split / "a.png")
        row = {"file_name": "a.png", "objects": {"bbox": [[X1, Y1, W, H]], "categories": [0]}}
        text(root / split / "metadata.jsonl", json.dumps(row) + "\n")
    names = "dataset_info:\n  features:\n  - class_label:\n      names:\n        '0': cat\n"
    text(root / "README.md", f"---\n{names}---\n")


def huggingface_names(root: Path) -> None:
    marked(root / "data/a.png")
    objects = {"id": [1], "area": [W * H], "bbox": [[X1, Y1, W, H]], "category": ["cat"]}
    row = {"file_name": "a.png", "width": WIDTH, "height": HEIGHT, "objects": objects}
    text(root / "data/metadata.jsonl", json.dumps(row) + "\n")


BOX2D = {"x1": X1, "y1": Y1, "x2": X2 - 1, "y2": Y2 - 1}


def bdd100k_2018(root: Path) -> None:
    """https://doc.bdd100k.com/format.html: all labels of a split in one list."""
    for split in ("train", "val"):
        marked(root / f"images/100k/{split}/{split}.png")
        labels = [
            {"category": "cat", "box2d": BOX2D, "attributes": {"truncated": False}},
            {"category": "lane", "poly2d": [{"vertices": [[0, 0], [9, 9]], "types": "LL"}]},
        ]
        frame = {"name": f"{split}.png", "timestamp": 10000, "labels": labels}
        document(root / f"labels/bdd100k_labels_images_{split}.json", [frame])


def bdd100k_frames(root: Path) -> None:
    """https://github.com/scalabel/scalabel: the list is in an object, with a configuration."""
    marked(root / "images/a.png")
    frame = {"name": "a.png", "labels": [{"id": "1", "category": "cat", "box2d": BOX2D}]}
    document(root / "det_train.json", {"frames": [frame], "config": {"categories": []}})


def bdd100k_single(root: Path) -> None:
    """The first release: a file for each image."""
    marked(root / "images/100k/train/a.jpg")
    thing = {"category": "cat", "id": 0, "attributes": {"occluded": True}, "box2d": BOX2D}
    frame = {"timestamp": 10000, "objects": [thing]}
    document(root / "labels/100k/train/a.json", {"name": "a", "frames": [frame]})


def darknet_own(root: Path) -> None:
    """https://pjreddie.com/darknet/yolo/#train-voc: lists of absolute paths, labels by folders."""
    for split in ("train", "val"):
        marked(root / f"VOC/JPEGImages/{split}.png")
        text(root / f"VOC/labels/{split}.txt", f"0 {ROW}\n")
        text(root / f"{split}.txt", f"/home/me/darknet/VOC/JPEGImages/{split}.png\n")
    text(root / "voc.names", "cat\n")
    lists = "train  = train.txt\nvalid  = val.txt\n"
    text(root / "voc.data", f"classes= 1\n{lists}names = voc.names\nbackup = backup\n")


def fiftyone_labels(root: Path) -> None:
    """https://docs.voxel51.com/user_guide/export_datasets.html#fiftyoneimagedetectiondataset"""
    thing = {"label": "cat", "bounding_box": [X1 / WIDTH, Y1 / HEIGHT, W / WIDTH, H / HEIGHT]}
    for split in ("train", "validation"):
        marked(root / f"{split}/data/{split}.png")
        labels = {split: [{**thing, "attributes": {"iscrowd": False}}]}
        document(root / split / "labels.json", {"classes": ["cat"], "labels": labels})


def fiftyone_samples(root: Path) -> None:
    """The same program's own form (FiftyOneDataset): samples whose tags name splits."""
    marked(root / "data/a.png")
    box = [X1 / WIDTH, Y1 / HEIGHT, W / WIDTH, H / HEIGHT]
    thing = {"_cls": "Detection", "label": "cat", "bounding_box": box, "tags": []}
    truth = {"_cls": "Detections", "detections": [thing]}
    sample = {"filepath": "data/a.png", "tags": ["validation"], "ground_truth": truth}
    document(root / "samples.json", {"samples": [sample]})


PERCENT = {
    "x": X1 / WIDTH * 100,
    "y": Y1 / HEIGHT * 100,
    "width": W / WIDTH * 100,
    "height": H / HEIGHT * 100,
    "rotation": 0,
    "rectanglelabels": ["cat"],
}


def labelstudio_tasks(root: Path) -> None:
    """https://labelstud.io/guide/export#JSON, since version 1: `annotations`, uploaded files."""
    marked(root / "images/1a2b3c4d-a.png")
    region = {"type": "rectanglelabels", "value": PERCENT, "id": "x", "from_name": "label"}
    sides = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    annotation = {"id": 1, "was_cancelled": False, "result": [{**region, **sides}]}
    data = {"image": "/data/upload/1/1a2b3c4d-a.png"}
    document(root / "project-1.json", [{"id": 1, "annotations": [annotation], "data": data}])


def labelstudio_completions(root: Path) -> None:
    """Version 0: `completions`, sizes beside them or not at all, files of the server's folder."""
    marked(root / "a.png")
    region = {"type": "rectanglelabels", "value": PERCENT, "to_name": "image"}
    completion = {"id": 1001, "lead_time": 4.2, "result": [region]}
    data = {"image": "http://localhost:8080/data/local-files/?d=photos%5Ca.png"}
    document(root / "tasks.json", [{"id": 0, "completions": [completion], "data": data}])


BUILDERS: dict[str, tuple[Callable[[Path], None], ...]] = {
    "voc": (voc_kit, voc_parent, voc_labelimg, voc_roboflow, voc_cvat, voc_annots),
    "coco": (coco_kit, coco_roboflow, coco_cvat, coco_keypoints, coco_masks),
    "yolo": (
        yolo_ultralytics,
        yolo_segments,
        yolo_pose,
        yolo_roboflow,
        yolo_cvat,
        yolo_beside,
    ),
    "darknet": (darknet_cvat, darknet_own),
    "fiftyone": (fiftyone_labels, fiftyone_samples),
    "labelstudio": (labelstudio_tasks, labelstudio_completions),
    "labelme": (labelme_5, labelme_3),
    "csv": (csv_roboflow, csv_retinanet, csv_files),
    "via": (via_1, via_2, via_csv),
    "cvat": (cvat_images, cvat_video),
    "createml": (createml_roboflow, createml_apple),
    "kitti": (kitti_object, kitti_digits),
    "visdrone": (visdrone_2019, visdrone_2018),
    "openimages": (openimages_4, openimages_6),
    "huggingface": (huggingface_numbers, huggingface_names),
    "bdd100k": (bdd100k_2018, bdd100k_frames, bdd100k_single),
}
CASES = [(layout, build) for layout, builders in BUILDERS.items() for build in builders]
SPLITS = {  # those that are not said by "none"
    "voc_kit": ["train", "val"],
    "voc_parent": ["train", "val"],
    "voc_cvat": ["default"],
    "voc_roboflow": ["test", "train", "val"],
    "coco_kit": ["train", "val"],
    "coco_roboflow": ["train", "val"],
    "coco_cvat": ["default"],
    "coco_keypoints": ["val"],
    "coco_masks": ["result"],
    "yolo_ultralytics": ["train", "val"],
    "yolo_segments": ["train", "val"],
    "yolo_pose": ["train", "val"],
    "yolo_roboflow": ["train", "val"],
    "yolo_cvat": ["train"],
    "yolo_beside": ["train", "val"],
    "darknet_cvat": ["train"],
    "darknet_own": ["train", "val"],
    "fiftyone_labels": ["train", "val"],
    "fiftyone_samples": ["val"],
    "csv_roboflow": ["train", "val"],
    "csv_files": ["test", "train"],
    "via_1": ["train", "val"],
    "cvat_images": ["train", "val"],
    "createml_roboflow": ["train", "val"],
    "kitti_object": ["train"],
    "kitti_digits": ["train", "val"],
    "visdrone_2019": ["test", "train", "val"],
    "openimages_4": ["train", "val"],
    "openimages_6": ["train"],
    "huggingface_numbers": ["train", "val"],
    "bdd100k_2018": ["train", "val"],
    "bdd100k_frames": ["train"],
    "bdd100k_single": ["train"],
}
