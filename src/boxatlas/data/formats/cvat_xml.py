"""CVAT's XML, an image at a time; a video's tracks as the images of their frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from boxatlas.errors import InputError


def images(
    path: Path, classes: dict[str, int], refuse: Callable[[InputError], None]
) -> Iterator[Element]:
    """Each image as an element with its shapes; what was used is let go. Labels go to `classes`."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    frames: dict[int, Element] = {}
    try:
        for _, element in iterparse(path, events=("end",), forbid_dtd=True):
            if element.tag == "label" and element.find("name") is not None:
                classes.setdefault((element.findtext("name") or "").strip(), len(classes))
            elif element.tag == "image":
                yield element
                element.clear()
            elif element.tag == "track":
                _to_frames(element, frames, path, refuse)
                element.clear()
    except DefusedXmlException as error:
        problem = f"XML that defines entities or names other files ({type(error).__name__})"
        raise InputError(problem, file=path) from None
    except (ParseError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"is not valid XML: {error}", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    yield from (frames[n] for n in sorted(frames))


def _to_frames(
    track: Element, frames: dict[int, Element], path: Path, refuse: Callable[[InputError], None]
) -> None:
    for shape in track:
        text = shape.get("frame", "")
        if not text.isdecimal():
            refuse(InputError("a shape of no frame", file=path, field="track.frame", value=text))
            continue
        n = int(text)
        image = frames.setdefault(n, Element("image", name=f"frame_{n:06d}", id=text))
        if shape.get("outside") != "1":
            shape.set("label", track.get("label", ""))
            image.append(shape)
