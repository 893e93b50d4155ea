"""Every kind of image opens right, in one place; Preprocess and Frame undo one another."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from boxatlas.errors import InputError
from boxatlas.images import IMAGE_SUFFIXES, Preprocess, read, size_of

RED, BLUE = (255, 0, 0), (0, 0, 255)


def two_halves(width: int = 20, height: int = 10) -> Image.Image:
    """The left half red, the right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


@pytest.mark.parametrize(
    ("orientation", "red_corner"),
    # Where the stored picture's left half is once the EXIF tag is obeyed (EXIF 2.3, table 6).
    [
        (1, "left"),
        (2, "right"),
        (3, "right"),
        (4, "left"),
        (5, "top"),
        (6, "top"),
        (7, "bottom"),
        (8, "bottom"),
    ],
)
def test_exif_turns_the_image(tmp_path: Path, orientation: int, red_corner: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    two_halves().save(path, exif=exif)
    pixels = read(path)
    upright = orientation < 5
    assert pixels.shape == ((10, 20, 3) if upright else (20, 10, 3))
    assert size_of(path) == pixels.shape[:2]
    place = {"left": (5, 1), "right": (5, -2), "top": (1, 5), "bottom": (-2, 5)}[red_corner]
    assert tuple(pixels[place]) == RED


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_the_size_in_the_header_is_that_of_the_upright_pixels(tmp_path: Path, suffix: str) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}{suffix}"
        two_halves().save(path, exif=exif)
        upright = (10, 20) if orientation < 5 else (20, 10)
        assert size_of(path) == read(path).shape[:2] == upright


def test_a_png_tells_of_turning_behind_its_pixels_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    two_halves().save(tmp_path / "before.png", exif=exif)
    data = (tmp_path / "before.png").read_bytes()
    start = data.index(b"eXIf") - 4
    chunk = data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]
    end = len(data) - 12 - len(chunk)  # of what stands before the last chunk, IEND
    rest = data.replace(chunk, b"")
    (tmp_path / "behind.png").write_bytes(rest[:end] + chunk + rest[end:])
    assert size_of(tmp_path / "behind.png") == read(tmp_path / "behind.png").shape[:2] == (20, 10)


def test_the_size_of_a_png_is_known_without_its_pixels(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "whole.png")
    data = bytearray((tmp_path / "whole.png").read_bytes())
    data[data.index(b"IDAT") + 4] ^= 0xFF  # no longer to be decoded
    (tmp_path / "spoilt.png").write_bytes(data)
    assert size_of(tmp_path / "spoilt.png") == (10, 20)
    with pytest.raises(InputError):
        read(tmp_path / "spoilt.png")


def test_grey_palette_and_cmyk_become_rgb(tmp_path: Path) -> None:
    Image.new("L", (4, 3), 77).save(tmp_path / "grey.png")
    assert np.array_equal(read(tmp_path / "grey.png"), np.full((3, 4, 3), 77))
    two_halves().quantize(2).save(tmp_path / "palette.gif")
    assert tuple(read(tmp_path / "palette.gif")[0, 0]) == RED
    Image.new("CMYK", (4, 3), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    red = read(tmp_path / "print.jpg")[1, 1].astype(int)
    assert np.abs(red - RED).max() <= 3  # no cyan, full magenta and yellow: red
    Image.new("1", (4, 3), 1).save(tmp_path / "bits.png")
    assert read(tmp_path / "bits.png").min() == 255


def test_what_is_transparent_shows_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    image.save(tmp_path / "clear.png")
    assert read(tmp_path / "clear.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]
    grey = Image.new("LA", (1, 1), (50, 0))
    grey.save(tmp_path / "clear_grey.png")
    assert read(tmp_path / "clear_grey.png").tolist() == [[[255, 255, 255]]]


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    deep = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"):
        assert read(tmp_path / name)[0, :, 0].tolist() == [0, 1, 128, 255]
    assert read(deep)[0, :, 0].tolist() == [0, 1, 128, 255]
    dark = np.array([[0, 200]], np.uint16)
    Image.fromarray(dark).save(tmp_path / "dark.png")
    Image.fromarray(dark.astype(">u2")).save(tmp_path / "dark.tif")
    assert (tmp_path / "dark.tif").read_bytes()[:2] == b"MM"  # big-endian
    for source in (tmp_path / "dark.png", tmp_path / "dark.tif", dark, dark.astype(">u2")):
        assert read(source)[0, :, 0].tolist() == [0, 0]
    floats = np.array([[0.0, 0.5, 1.0]], np.float32)
    Image.fromarray(floats).save(tmp_path / "float.tif")
    assert read(tmp_path / "float.tif")[0, :, 0].tolist() == [0, 128, 255]


def test_arrays_and_tensors_of_any_kind() -> None:
    grey = np.array([[0, 100]], np.uint8)
    assert read(grey).tolist() == [[[0] * 3, [100] * 3]]
    assert read(torch.tensor([[[0.0, 1.0]]])).tolist() == [[[0] * 3, [255] * 3]]
    colour = torch.zeros(3, 2, 5, dtype=torch.uint8)
    colour[2] = 9
    assert read(colour).shape == (2, 5, 3)
    assert read(colour)[0, 0].tolist() == [0, 0, 9]
    assert read(np.array([[True, False]]))[0, :, 0].tolist() == [255, 0]
    assert read(two_halves()).shape == (10, 20, 3)
    halves = torch.tensor([[[0.0, 0.5, 1.0]]], dtype=torch.bfloat16)
    assert read(halves)[0, :, 0].tolist() == [0, 128, 255]
    for wrong in (np.zeros((3, 4, 5, 6), np.uint8), torch.zeros(1, 3, 4, 5), torch.zeros(3)):
        with pytest.raises(InputError, match="shape"):
            read(wrong)
    with pytest.raises(InputError, match="dtype: an image array holds numbers"):
        read(np.array([["a"]]))
    with pytest.raises(InputError, match="NaN"):
        read(np.array([[np.nan]]))


@pytest.mark.parametrize("top", [1.0, 1.004, 1.2, 255.0, 255.5, 300.0])
def test_floats_that_overshoot_their_range_are_clipped(top: float) -> None:
    whole = 1.0 if top < 2 else 255.0
    picture = np.array([[0.0, whole / 5, top]])
    assert read(picture)[0, :, 0].tolist() == [0, 51, 255]
    assert read(-picture / 10 + picture)[0, 0, 0] == 0


def test_integers_that_overshoot_a_byte_are_clipped() -> None:
    for kind in (np.int16, np.int32, np.int64, np.uint32):
        assert read(np.array([[0, 100, 256]], kind))[0, :, 0].tolist() == [0, 100, 255]
    assert read(np.array([[-3, 5]]))[0, :, 0].tolist() == [0, 5]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.array([[-2.1, 0.0, 2.6]]), "not normalised"),
        (np.array([[-1.0, 0.0, 1.0]]), "not normalised"),
        (np.array([[0, 65535]], np.int64), "uint16"),
        (np.array([[0.0, 65535.0]]), "uint16"),
    ],
)
def test_what_can_only_be_a_mistake_is_refused(wrong: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(wrong)


def test_opencv_s_order_is_turned_for_arrays_alone(tmp_path: Path) -> None:
    blue_first = np.array([[[255, 0, 0]]], np.uint8)
    assert read(blue_first, bgr=True)[0, 0].tolist() == [0, 0, 255]
    assert read(torch.tensor([[[255]], [[0]], [[0]]], dtype=torch.uint8), bgr=True)[
        0, 0
    ].tolist() == [0, 0, 255]
    clear = np.array([[[255, 0, 0, 0]]], np.uint8)
    assert read(clear, bgr=True)[0, 0].tolist() == [255, 255, 255]
    two_halves().save(tmp_path / "a.png")
    assert tuple(read(tmp_path / "a.png", bgr=True)[0, 0]) == RED


def test_pipes_links_and_names_neither_hang_nor_crash(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    names = ("pipe.jpg", "loop.jpg", "folder.jpg", "x" * 5000 + ".jpg", "zero\0byte.jpg")
    for name in names:
        for ask in (read, size_of):
            with pytest.raises(InputError):
                ask(tmp_path / name)


def test_only_known_formats_are_opened(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "a.png", "PCX")  # what it holds counts, not its name
    with pytest.raises(InputError, match="not an image"):
        read(tmp_path / "a.png")
    for name, kind in (("a.jfif", "JPEG"), ("a.jpe", "JPEG"), ("a.avif", "AVIF"), ("a.ppm", "PPM")):
        two_halves().save(tmp_path / name, kind)
        assert read(tmp_path / name).shape == (10, 20, 3)
        assert Path(name).suffix in IMAGE_SUFFIXES


def test_pixels_are_limited_before_they_are_decoded(tmp_path: Path, monkeypatch) -> None:
    two_halves().save(tmp_path / "a.png")
    header = bytearray((tmp_path / "a.png").read_bytes())
    header[16:24] = (9000).to_bytes(4, "big") * 2  # 81 million, with the old checksum
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    (tmp_path / "large.png").write_bytes(bytes(header))
    for ask in (read, size_of):
        with pytest.raises(InputError, match=r"64,000,000 pixels.*BOXATLAS_MAX_PIXELS"):
            ask(tmp_path / "large.png")
    monkeypatch.setenv("BOXATLAS_MAX_PIXELS", "100")
    with pytest.raises(InputError, match="100 pixels"):
        read(tmp_path / "a.png")
    monkeypatch.setenv("BOXATLAS_MAX_PIXELS", "many")
    with pytest.raises(InputError, match="BOXATLAS_MAX_PIXELS"):
        read(tmp_path / "a.png")


def test_a_damaged_image_names_its_file(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:-400])
    with pytest.raises(InputError, match=r"cut\.jpg.*truncated"):
        read(cut)
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.jpg.*not an image"):
        read(tmp_path / "text.jpg")
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match=r"empty\.png"):
        read(tmp_path / "empty.png")
    with pytest.raises(InputError, match=r"gone\.jpg.*no such file"):
        read(tmp_path / "gone.jpg")
    with pytest.raises(InputError, match=r"gone\.jpg"):
        size_of(tmp_path / "gone.jpg")


sides = st.integers(1, 900)


@given(
    height=sides,
    width=sides,
    resize=st.sampled_from(["stretch", "letterbox", "shorter"]),
    truncate=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_frame_undoes_itself(height: int, width: int, resize: str, truncate: bool) -> None:
    preprocess = Preprocess(size=(320, 416), resize=resize, truncate=truncate)  # type: ignore[arg-type]
    frame = preprocess.frame(height, width)
    boxes = torch.tensor([[0.0, 0.0, width, height], [width * 0.2, 0.0, width * 0.7, height * 0.4]])
    there = frame.apply(boxes)
    assert torch.allclose(frame.undo(there), boxes, atol=1e-2)
    h, w = frame.content
    low = torch.tensor(frame.offset)
    assert torch.allclose(there[0, :2], low, atol=1e-3)
    assert torch.allclose(there[0, 2:] - low, torch.tensor([float(w), float(h)]), atol=1e-2)
    if resize == "shorter":
        assert min(h, w) <= 320
        assert max(h, w) <= 416
    else:
        assert h <= 320
        assert w <= 416


def test_normalised_values_are_those_of_the_formula() -> None:
    preprocess = Preprocess(
        size=(2, 2), scale=1.0, mean=(123.0, 117.0, 104.0), std=(1.0, 2.0, 4.0), channels="bgr"
    )
    image, frame = preprocess(np.full((2, 2, 3), (10, 20, 30), np.uint8))
    assert frame.scale == (1.0, 1.0)
    wanted = torch.tensor([30 - 123.0, (20 - 117.0) / 2, (10 - 104.0) / 4])
    assert torch.allclose(image[:, 0, 0], wanted)
    assert preprocess.pixels(image)[0, 0].tolist() == [10, 20, 30]


def test_a_stretch_is_torch_s_bilinear() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (7, 11, 3), np.uint8)
    plain = Preprocess(size=(14, 5), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    image, _ = plain(pixels)
    source = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    wanted = torch.nn.functional.interpolate(source, (14, 5), mode="bilinear")[0]
    assert torch.allclose(image, wanted, atol=1e-6)


def test_a_letterbox_is_centred_on_its_padding() -> None:
    grey = Preprocess(
        size=(8, 8),
        resize="letterbox",
        pad_value=(0.5, 0.5, 0.5),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    image, frame = grey(np.full((4, 8, 3), 255, np.uint8))
    assert frame.offset == (0.0, 2.0)
    assert image[0, :, 0].tolist() == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5]


def test_images_of_two_sizes_are_padded_to_a_multiple() -> None:
    preprocess = Preprocess(size=(40, 100), resize="shorter", multiple=32)
    images, frames = preprocess.batch(
        [np.zeros((40, 50, 3), np.uint8), np.zeros((80, 40, 3), np.uint8)]
    )
    assert images.shape == (2, 3, 96, 64)
    assert [f.content for f in frames] == [(40, 50), (80, 40)]
    assert images[0, :, 40:].abs().max() == 0


def test_wrong_values_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'resize'"):
        Preprocess.of(size=(3, 3), resiz="stretch")
    for wrong in (
        {"size": (0, 3)},
        {"size": (3, 3), "std": (1, 0, 1)},
        {"size": (3, 3), "multiple": 0},
        {"size": (3, 3), "scale": np.nan},
    ):
        with pytest.raises(InputError, match=list(wrong)[-1]):
            Preprocess.of(**wrong)
