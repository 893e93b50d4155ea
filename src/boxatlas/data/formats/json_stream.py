"""Reading a large JSON document piece by piece: never more than a part of it in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from boxatlas.data.formats.building import encoding_of
from boxatlas.data.formats.coco_rows import Rows, Scan
from boxatlas.errors import InputError

_CHUNK = 1 << 22  # characters
_SPACE = " \t\n\r"


def entries(path: Path, inner: str) -> Iterator[tuple[str, Any]]:
    """The members of an object, each whole: of the one called `inner` at the top of the file, or of
    the top itself where it has none. Raises as `members`."""
    with _opened(path) as file:
        reader = _Reader(file, path, None)
        reader.inner = inner
        yield from reader.entries()


def members(path: Path, scan: Scan | None = None) -> Iterator[tuple[str, int | None, Any]]:
    """What an object at the top of the file holds, one piece at a time.

    Yields (key, None, value) for each member that is no list; for a list (key, -1, []) and then
    (key, i, element) for each of its elements. scan: of `coco_rows`; elements that it knows come
    as (key, i of the first, Rows). Raises InputError for what is not valid JSON.
    """
    with _opened(path) as file:
        yield from _Reader(file, path, scan).members()


def elements(path: Path) -> Iterator[Any]:
    """The elements of a list at the top of the file, one at a time. Raises as `members`."""
    with _opened(path) as file:
        yield from _Reader(file, path, None).whole_list()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with open(path, encoding=encoding_of(path)) as file:
            yield file
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text: {error.reason}", file=path) from None
    except RecursionError:
        raise InputError("is nested too deep", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None


class _Reader:
    def __init__(self, file: Any, path: Path, rows: Scan | None) -> None:
        self.file, self.path, self.rows = file, path, rows
        self.text, self.at, self.passed, self.ended = "", 0, 0, False
        self.reach, self.inner = _CHUNK, ""
        decoder: Any = json.JSONDecoder()
        self.scan = decoder.scan_once

    def members(self) -> Iterator[tuple[str, int | None, Any]]:
        if self.next() != "{":
            raise InputError("no object at the top", file=self.path)
        self.at += 1
        if self.next() == "}":
            return
        while True:
            key = self.name()
            if self.next() == "[":
                yield key, -1, []
                yield from self.elements(key)
            else:
                yield key, None, self.value()
            if self.expect(",}") == "}":
                break
        if self.next():
            self.wrong("something follows the end")

    def entries(self) -> Iterator[tuple[str, Any]]:
        if self.next() != "{":
            raise InputError("no object at the top", file=self.path)
        yield from self.pairs(0)
        if self.next():
            self.wrong("something follows the end")

    def name(self) -> str:
        """The name of a member, and the colon after it."""
        key = self.value()
        if not isinstance(key, str):
            self.wrong("a name in quotes is missing")
        self.expect(":")
        return key

    def pairs(self, depth: int) -> Iterator[tuple[str, Any]]:
        """The members of the object that begins here."""
        self.at += 1
        if self.next() == "}":
            self.at += 1
            return
        while True:
            key = self.name()
            if depth == 0 and key == self.inner and self.next() == "{":
                yield from self.pairs(1)
            else:
                yield key, self.value()
            if self.expect(",}") == "}":
                return

    def whole_list(self) -> Iterator[Any]:
        if self.next() != "[":
            raise InputError("no list at the top", file=self.path)
        for _, _, value in self.elements(""):
            yield value
        if self.next():
            self.wrong("something follows the end")

    def elements(self, key: str) -> Iterator[tuple[str, int, Any]]:
        self.at += 1
        if self.next() == "]":
            self.at += 1
            return
        i = 0
        while True:
            yield key, i, self.value()
            i += 1
            end = self.at
            if self.expect(",]") == "]":
                return
            if self.next() == "{":  # objects, most likely: take many at once
                between = "}" + self.text[end : self.at + 1]
                while end and (many := self.block(between)):
                    if isinstance(many, list):
                        for value in many:
                            yield key, i, value
                            i += 1
                    else:
                        yield key, i, many
                        i += len(many)
                if self.next() == "]":
                    self.at += 1
                    return

    def block(self, between: str) -> list[Any] | Rows:
        """The elements up to the last `between` within reach, or up to the list's end if that comes
        first; none where neither is there. What follows them is next."""
        if len(self.text) - self.at < _CHUNK // 2 and not self.ended:
            self.more(_CHUNK)
        if self.rows is not None:
            found, self.at = self.rows(self.text, self.at)
            # What the scan does not know is parsed, at first only a little of it.
            self.reach = 256 if len(found) else self.reach
            if len(found):
                return found
        end = self.text.rfind(between, self.at, self.at + self.reach)
        if end < 0:
            return []
        try:
            many, stop = self.scan(f"[{self.text[self.at : end + 1]}]", 0)
        except (ValueError, StopIteration):
            # `between` stood in a text, or something is wrong there: it costs ever less to look.
            self.reach //= 4
            return []
        self.reach = min(2 * self.reach + 1024, _CHUNK)
        whole = stop == end + 3 - self.at
        self.at = end + len(between) - 1 if whole else self.at + stop - 2
        return many

    def value(self) -> Any:
        """The value that begins here; more of the file is taken in while it is cut off."""
        self.next()
        size = _CHUNK
        while True:
            try:
                value, end = self.scan(self.text, self.at)
                if end < len(self.text) or self.ended:
                    self.at = end
                    return value
            except StopIteration:
                if self.ended:
                    self.wrong("a value is missing")
            except json.JSONDecodeError as error:
                if self.ended:
                    self.at = min(error.pos, len(self.text))
                    self.wrong(error.msg.lower())
            except ValueError:  # more digits than Python turns into an integer
                self.wrong("a number of too many digits in the value")
            self.more(size)
            size *= 2

    def next(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self.more(_CHUNK)

    def expect(self, choices: str) -> str:
        found = self.next()
        if not found or found not in choices:
            self.wrong(f"{' or '.join(choices)} is missing")
        self.at += 1
        return found

    def more(self, size: int) -> None:
        chunk = self.file.read(size)
        self.ended = not chunk
        self.passed += self.at
        self.text, self.at = self.text[self.at :] + chunk, 0

    def wrong(self, problem: str) -> None:
        raise InputError(
            f"is not valid JSON: {problem} at character {self.passed + self.at}", file=self.path
        )
