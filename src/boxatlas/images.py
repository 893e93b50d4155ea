"""Opening images and turning them into network inputs, in one place for every use.

`read` opens anything (path, PIL image, array, tensor) as uint8 RGB; `Preprocess` makes a network
input and the Frame that undoes it. Training, evaluation and detection share the same object.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from boxatlas.errors import InputError, parsing
from boxatlas.files import check_file
from boxatlas.frame import Frame
from boxatlas.options import AtLeastOne, Options, Pixels, Positive, setting

Source = str | Path | bytes | Image.Image | NDArray[Any] | Tensor
# The formats of Pillow that are opened, and no others: each parser is a way in for a hostile file.
# (MPO is opened as JPEG.)
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "AVIF", "PPM")
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
_PORTABLE = (".ppm", ".pgm", ".pbm", ".pnm")
IMAGE_SUFFIXES = frozenset(
    [*_JPEG, *_PORTABLE, ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif"]
)
MAX_PIXELS = 64_000_000  # of a file, unless the environment says otherwise
_LIMIT = "BOXATLAS_MAX_PIXELS"
_OVERSHOOT = 0.25  # of the range: what interpolation may leave beyond it


class InputChoices(Options):
    """The size of an input that does not depend on the image."""

    size: Pixels | tuple[Pixels, Pixels] = setting(
        300, "input in pixels: a side, or (height, width)"
    )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the input."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def read(source: Source, *, bgr: bool = False) -> NDArray[np.uint8]:
    """Any image as uint8 RGB [H, W, 3], upright.

    Of files (JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, PPM) and PIL images, EXIF rotation is applied,
    grey, palette and CMYK are converted, and what is transparent shows white. Arrays are [H, W] or
    [H, W, 1|3|4], tensors [1|3|4, H, W] or [H, W], in the order R, G, B, or B, G, R where `bgr`
    (OpenCV's) is given; it does not touch files and PIL images.

    Range: uint8 is taken as it is, uint16 is 0..65535, other integers 0..255; floats are 0..1, or
    0..255 where a value exceeds 1.25. Values up to a quarter of the range beyond it are clipped.
    Raises InputError for values further out (a normalised picture, 16 bits in another type), for
    other shapes, and where a file is missing, damaged or of more than 64 million pixels (the
    environment variable BOXATLAS_MAX_PIXELS sets another limit).
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, bgr)
    if isinstance(source, Tensor):
        tensor = source.detach().cpu()
        if tensor.is_floating_point() and tensor.itemsize < 4:  # numpy has no bfloat16
            tensor = tensor.float()
        planes = tensor.movedim(0, -1) if tensor.ndim == 3 else tensor
        return _from_array(planes.numpy(), bgr)
    if isinstance(source, Image.Image):
        return np.array(_upright_rgb(source))  # a copy: torch wants it writable
    if not isinstance(source, str | Path | bytes):
        problem = "is no picture: give a path, a PIL image, an array or a tensor"
        raise InputError(problem, field="source", value=type(source).__name__)
    name = "image data" if isinstance(source, bytes) else str(source)
    with opened(source) as image, parsing(name, "the image cannot be decoded"):
        return np.array(_upright_rgb(image))


@contextmanager
def opened(source: str | Path | bytes) -> Iterator[Image.Image]:
    """An image file of a format that we know, its header read and its size within the limit."""
    name = "image data" if isinstance(source, bytes) else str(source)
    if not isinstance(source, bytes):
        check_file(source)
    limit = max_pixels()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd tags and sizes; what matters is raised
        try:
            with parsing(name, "the image cannot be opened"):
                stream = io.BytesIO(source) if isinstance(source, bytes) else source
                image = Image.open(stream, formats=_known_formats())
        except InputError as error:
            cause = error.__context__
            if isinstance(cause, UnidentifiedImageError):
                raise InputError("not an image that can be read", file=name) from None
            if isinstance(cause, Image.DecompressionBombError):
                raise _too_large(name, min(limit, 2 * (Image.MAX_IMAGE_PIXELS or limit))) from None
            raise
        with image:
            if image.width * image.height > limit:
                raise _too_large(name, limit)
            yield image


@lru_cache(maxsize=1)
def _known_formats() -> tuple[str, ...]:
    """Those of FORMATS that this build of Pillow opens."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def max_pixels() -> int:
    """The most pixels that an image file may have."""
    given = os.environ.get(_LIMIT, "")
    if given and not given.isdecimal():
        raise InputError("is a whole number of pixels", field=_LIMIT, value=given)
    return int(given) if given else MAX_PIXELS


def _too_large(name: str, limit: int) -> InputError:
    hint = f"set {_LIMIT} in the environment if you trust the file"
    return InputError(f"over the limit of {limit:,} pixels", file=name, hint=hint)


def size_of(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image file once upright, reading its header only."""
    with opened(path) as image, parsing(path, "not an image that can be read"):
        width, height = image.size
        if isinstance(image, TiffImageFile):  # whose size some versions of Pillow have turned
            width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
        plain = image.format == "PNG" and not _tells_of_turning(path)
        turned = not plain and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def _tells_of_turning(path: str | Path) -> bool:
    """Whether a PNG file has a chunk that may hold an orientation, wherever it stands.

    Pillow decodes the whole picture to find one.
    """
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            start = file.tell()
            if kind == b"eXIf" or (
                kind in (b"tEXt", b"zTXt", b"iTXt")
                and file.read(min(length, 24)).startswith(
                    (b"Raw profile type exif", b"XML:com.adobe.xmp")
                )
            ):
                return True
            file.seek(start + length + 4)
    return False


def _upright_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode == "I":  # Pillow's modes of 16 bits
        return Image.fromarray(_from_array(np.asarray(image).clip(0, 65535).astype(np.uint16)))
    if image.mode == "F":
        values = np.asarray(image)
        deep = values.size and values.max() > 255 * (1 + _OVERSHOOT)  # floats of 16-bit data
        return Image.fromarray(_from_array(values / np.float32(65535) if deep else values))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_array(array: NDArray[Any], bgr: bool = False) -> NDArray[np.uint8]:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        problem = "an image array is [H, W] or [H, W, 1|3|4], a tensor [1|3|4, H, W]"
        raise InputError(problem, field="shape", value=array.shape)
    array = _in_bytes(array)
    if bgr and array.shape[2] > 1:
        array = array[..., [2, 1, 0, *range(3, array.shape[2])]]
    if array.shape[2] == 1:
        array = array.repeat(3, axis=2)
    elif array.shape[2] == 4:
        alpha = array[..., 3:].astype(np.uint16)
        array = ((array[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(array)


def _in_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixel values of any type as uint8, by the rule that `read` states."""
    kind = array.dtype
    if kind.kind not in "biuf":
        raise InputError("an image array holds numbers", field="dtype", value=str(kind))
    if kind == np.uint8:
        return array
    if kind.kind == "b":
        return array.astype(np.uint8) * 255
    if kind.newbyteorder("=") == np.uint16:
        return (array // 257).astype(np.uint8)
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("an image array holds NaN or infinity")
    whole = 1 if kind.kind == "f" and high <= 1 + _OVERSHOOT else 255
    # A normalised picture's lowest value lies about as far from 0 as its highest.
    reach = min(whole, max(high, 1)) if kind.kind == "f" else whole
    if low < -_OVERSHOOT * reach:
        problem = "an image array holds values below 0"
        hint = "give the picture as it is, not normalised: detect does that itself"
        raise InputError(problem, field="smallest value", value=low.item(), hint=hint)
    if high > (1 + _OVERSHOOT) * whole:
        problem = "an image array goes beyond 255"
        hint = "pictures of 16 bits are uint16; floats are 0..1 or 0..255"
        raise InputError(problem, field="largest value", value=high.item(), hint=hint)
    if kind.kind != "f":
        return array.clip(0, 255).astype(np.uint8)
    return (array.clip(0, whole) * (255.0 / whole) + 0.5).astype(np.uint8)


class Preprocess(Options):
    """How a source image becomes a network input: resize rule, colour, scale.

    resize "stretch" warps to `size` (height, width); "letterbox" keeps the aspect and centres the
    content on `pad_value`; "shorter" scales so that the shorter side is size[0] and the longer at
    most size[1], aligned top left, and pads a batch to its largest, rounded up to `multiple`;
    "limit" reduces only a source larger than `size`, keeping the aspect, and pads likewise (R-CNN).
    align_corners: corner pixels fall on corner pixels; truncate: sizes lose their fractions instead
    of being rounded, and a letterboxed content's offset keeps it, as Darknet has both.
    Pixels are (value * scale - mean) / std in the order `channels`; mean, std and pad_value are in
    scaled units, in that order of channels.
    """

    size: tuple[AtLeastOne, AtLeastOne]
    resize: Literal["stretch", "letterbox", "shorter", "limit"] = "stretch"
    antialias: bool = False
    align_corners: bool = False
    truncate: bool = False
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: Positive = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    pad_value: tuple[float, float, float] | None = None  # None: the mean, so that padding is 0
    multiple: AtLeastOne = 32

    @property
    def same_size(self) -> bool:
        """Whether every image becomes an input of one size.

        Where not, a batch is padded to its largest image; what is found must not depend on that,
        so images are then seen one at a time (`Detector.detect`, `evaluation.predict`).
        """
        return self.resize in ("stretch", "letterbox")

    def frame(self, height: int, width: int) -> Frame:
        """Where a source of this size will lie in the input."""
        if self.resize == "stretch":
            h, w = self.size
            return Frame((height, width), (h, w), (w / width, h / height))
        if self.resize == "letterbox":
            ratio = min(self.size[0] / height, self.size[1] / width)
        elif self.resize == "limit":
            ratio = min(1.0, self.size[0] / height, self.size[1] / width)
        else:
            ratio = self.size[0] / min(height, width)
            ratio = min(ratio, self.size[1] / max(height, width))
        whole = math.floor if self.truncate else round
        h, w = max(1, whole(height * ratio)), max(1, whole(width * ratio))
        offset = (0.0, 0.0)
        if self.resize == "letterbox":
            if self.truncate:
                h, w = self._truncated(height, width)
                offset = ((self.size[1] - w) / 2, (self.size[0] - h) / 2)
            else:
                offset = (float((self.size[1] - w) // 2), float((self.size[0] - h) // 2))
        return Frame((height, width), (h, w), (w / width, h / height), offset)

    def _truncated(self, height: int, width: int) -> tuple[int, int]:
        """The letterboxed (height, width) in whole numbers, the tight side exact."""
        to_h, to_w = self.size
        if to_w * height < to_h * width:
            return max(1, height * to_w // width), to_w
        return to_h, max(1, width * to_h // height)

    def __call__(self, source: Source) -> tuple[Tensor, Frame]:
        """One source -> (image [3, h, w], Frame). A "shorter" image is not yet padded."""
        return self.of_pixels(read(source))

    def of_pixels(self, pixels: NDArray[np.uint8]) -> tuple[Tensor, Frame]:
        """As a call, of what `read` gave."""
        frame = self.frame(pixels.shape[0], pixels.shape[1])
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        if self.channels == "bgr":
            image = image.flip(0)
        image = self.resized(image.float()[None], frame.content)[0]
        return self.placed(self.normalised(image), frame), frame

    def batch(self, sources: Sequence[Source]) -> tuple[Tensor, list[Frame]]:
        """Sources -> (images [B, 3, H, W], frames)."""
        return self.batch_of_pixels([read(source) for source in sources])

    def batch_of_pixels(self, pictures: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, list[Frame]]:
        """As `batch`, of what `read` gave."""
        made = [self.of_pixels(pixels) for pixels in pictures]
        return self.collate([image for image, _ in made]), [frame for _, frame in made]

    def collate(self, images: Sequence[Tensor]) -> Tensor:
        """Images [3, h, w] -> one tensor, padded bottom right where they differ in size."""
        if self.same_size:
            return torch.stack(list(images))
        m = self.multiple
        height = -(-max(i.shape[1] for i in images) // m) * m
        width = -(-max(i.shape[2] for i in images) // m) * m
        out = self.padding().expand(len(images), 3, height, width).clone()
        for i, image in enumerate(images):
            out[i, :, : image.shape[1], : image.shape[2]] = image
        return out

    def resized(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Float images [B, 3, h, w] -> [B, 3, *size], bilinear; half-pixel centres by default."""
        if images.shape[-2:] == size:
            return images
        if self.align_corners:
            return F.interpolate(images, size, mode="bilinear", align_corners=True)
        return F.interpolate(
            images, size, mode="bilinear", align_corners=False, antialias=self.antialias
        )

    def normalised(self, images: Tensor) -> Tensor:
        """Pixels 0..255, channels already in order -> network values."""
        factor, shift = self._affine(images.device)
        return torch.addcmul(shift, images, factor)

    def padding(self) -> Tensor:
        """[3, 1, 1]: what fills the input beside the content."""
        if self.pad_value is None:
            return torch.zeros(3, 1, 1, dtype=torch.float32)
        value, mean, std = (
            torch.tensor(v, dtype=torch.float32) for v in (self.pad_value, self.mean, self.std)
        )
        return ((value - mean) / std)[:, None, None]

    def pixels(self, image: Tensor) -> NDArray[np.uint8]:
        """Network values [3, H, W] -> uint8 RGB [H, W, 3], to look at."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        values = (image.cpu() * std[:, None, None] + mean[:, None, None]) / self.scale
        if self.channels == "bgr":
            values = values.flip(0)
        return values.permute(1, 2, 0).clamp(0, 255).round().byte().numpy()

    def _affine(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean = torch.tensor(self.mean, device=device, dtype=torch.float32)
        std = torch.tensor(self.std, device=device, dtype=torch.float32)
        return (self.scale / std)[:, None, None], (-mean / std)[:, None, None]

    def placed(self, image: Tensor, frame: Frame) -> Tensor:
        if self.resize != "letterbox":
            return image
        x, y = int(frame.offset[0]), int(frame.offset[1])
        out = self.padding().expand(3, *self.size).clone()
        out[:, y : y + frame.content[0], x : x + frame.content[1]] = image
        return out
