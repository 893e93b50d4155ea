"""Words without a single box, detected: YOLO9000's joint training on a small made set.

    python benchmarks/joint.py [--steps 600] [--size 160]

Pictures show coloured shapes. Those with boxes say only "circle", "square" or "triangle"; those
with a label say which one of two colours a shape has, but not where it is. The tree puts the
colours under their shapes. Measured on new pictures: AP at 0.5 of the shapes, AP of the colours
(which never had a box), and how often the word found lies under the right parent.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from boxatlas import evaluation
from boxatlas.data import read
from boxatlas.training import Recipe, train
from boxatlas.weights import load
from boxatlas.wordtree import WordTree

SHAPES = ("circle", "square", "triangle")
COLOURS = {"red": (220, 40, 40), "blue": (40, 70, 220)}
WORDS = [f"{colour} {shape}" for shape in SHAPES for colour in COLOURS]
SIDE = 160


def tree() -> WordTree:
    """shape -> circle, square, triangle -> each in two colours."""
    paths = {name: [["shape", name]] for name in SHAPES}
    paths |= {word: [["shape", word.split()[1], word]] for word in WORDS}
    return WordTree.from_paths(paths)


def picture(rng: np.random.Generator, count: int) -> tuple[Image.Image, list[tuple[str, tuple]]]:
    """A noisy picture of so many shapes that do not touch, with (word, box) of each."""
    noise = rng.integers(90, 150, (SIDE // 8, SIDE // 8, 3), np.uint8)
    image = Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    draw, found = ImageDraw.Draw(image), []
    while len(found) < count:
        side = int(rng.integers(30, 64))
        x, y = (int(v) for v in rng.integers(0, SIDE - side, 2))
        box = (x, y, x + side, y + side)
        if any(
            box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for _, b in found
        ):
            continue
        word = WORDS[int(rng.integers(len(WORDS)))]
        colour, shape = word.split()
        fill = tuple(
            int(v) for v in np.clip(np.add(COLOURS[colour], rng.integers(-30, 30, 3)), 0, 255)
        )
        if shape == "circle":
            draw.ellipse(box, fill=fill)
        elif shape == "square":
            draw.rectangle(box, fill=fill)
        else:
            draw.polygon([(x + side / 2, y), (x + side, y + side), (x, y + side)], fill=fill)
        found.append((word, box))
    return image, found


def write_boxes(
    folder: Path, names: list[str], counts: dict[str, int], coarse: bool, rng: np.random.Generator
) -> None:
    """A set in Darknet's layout; coarse: the boxes say the shape alone."""
    options = [f"classes = {len(names)}", "names = set.names"]
    (folder / "labels").mkdir(parents=True)
    (folder / "images").mkdir()
    for split, count in counts.items():
        listed = []
        for i in range(count):
            image, found = picture(rng, int(rng.integers(1, 4)))
            image.save(folder / "images" / f"{split}{i}.png")
            lines = []
            for word, (x1, y1, x2, y2) in found:
                name = word.split()[1] if coarse else word
                row = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
                lines.append(f"{names.index(name)} " + " ".join(f"{v / SIDE:.6f}" for v in row))
            (folder / "labels" / f"{split}{i}.txt").write_text("\n".join(lines) + "\n")
            listed.append(f"images/{split}{i}.png\n")
        (folder / f"{split}.txt").write_text("".join(listed))
        options.append(f"{split} = {split}.txt")
    (folder / "set.names").write_text("".join(f"{name}\n" for name in names))
    (folder / "set.data").write_text("\n".join(options) + "\n")


def write_labels(folder: Path, count: int, rng: np.random.Generator) -> None:
    """Pictures of one shape in a folder for each word."""
    for i in range(count):
        image, ((word, _),) = picture(rng, 1)
        place = folder / word
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{i}.png")


def answers(found: list, table, words: WordTree) -> dict[str, float]:
    """How many objects a box lies on (IoU 0.5), and of the best of these boxes, how many words lie
    under the object's shape, and how many are the object's own."""
    total = hit = under = right = 0
    for i, one in enumerate(found):
        part, boxes = table.objects(i), one.boxes.numpy()
        for box, label in zip(table.boxes[part], table.labels[part], strict=True):
            total += 1
            low = np.maximum(boxes[:, :2], box[:2])
            high = np.minimum(boxes[:, 2:], box[2:])
            shared = np.clip(high - low, 0, None).prod(1)
            area = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
            near = np.flatnonzero(shared / (area - shared) > 0.5)
            if len(near):
                hit += 1
                word = one.names[near[0]]
                path = [words.names[node] for node in words.path(words.names.index(word))]
                under += table.classes[label].split()[1] in path[1:]
                right += word == table.classes[label]
    return {
        "objects found": hit / total,
        "of these under the right parent": under / max(hit, 1),
        "of these the right word": right / max(hit, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--boxes", type=int, default=150)
    parser.add_argument("--labels", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_boxes(root / "boxes", list(SHAPES), {"train": given.boxes}, True, rng)
        write_boxes(root / "test", WORDS, {"test": 60}, False, rng)
        write_labels(root / "labels", given.labels, rng)
        words = tree()
        words.write(root / "shapes.tree")
        (root / "shapes.names").write_text("".join(f"{word}\n" for word in words.names))
        recipe = Recipe.of(
            model="yolo9000",
            init="imagenet",
            options={
                "tree": str(root / "shapes.tree"),
                "tree_names": str(root / "shapes.names"),
                "backbone": "timm/tf_efficientnet_lite0",
                "size": given.size,
                "multi_scale": False,
                "tower": 1,
                "width": 0.25,
                "anchors": [[0.8, 0.8], [1.2, 1.2], [1.8, 1.8]],
            },
            data=[str(root / "boxes"), str(root / "labels")],
            val_split="none",
            iterations=given.steps,
            batch=16,
            optimizer="adamw",
            lr=1e-3,
            weight_decay=0.02,
            clip=10.0,
            schedule="cosine",
            final_lr=0.01,
            warmup=30,
            augment="flip",
            eval_every=given.steps,
            seed=given.seed,
            log_every=100,
        )
        run = train(recipe, root / "run")
        model = load(run.last).eval()
        test = read(root / "test", "test")
        shapes = read(root / "test", "test")
        coarse = np.array([SHAPES.index(word.split()[1]) for word in test.classes], np.int32)
        shapes = type(shapes)(
            SHAPES,
            test.paths,
            test.ids,
            test.sizes,
            test.offsets,
            test.boxes,
            coarse[test.labels],
            test.ignore,
        )
        row = {
            "shapes (with boxes)": evaluation.evaluate(
                evaluation.predict(model, shapes, progress=False), shapes
            )["mAP"],
            "colours (no boxes)": evaluation.evaluate(
                evaluation.predict(model, test, progress=False), test
            )["mAP"],
            **answers([model.detect(path, score=0.2) for path in test.paths], test, words),
            "chance among six colours": 1 / len(WORDS),
        }
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
