"""WordTree: classes as a tree of words. Redmon & Farhadi 2016, arXiv 1612.08242, section 4.

Siblings exclude each other, so each group of siblings has a softmax of its own: it gives the
probability of a word once its parent is given. The product along the path to the root is the
probability of the word itself.
Shape letters: N nodes, G groups, D the longest path, S the largest group, ... any leading axes.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from boxatlas.errors import InputError
from boxatlas.options import Count, Options, habit, setting

Decoder = Literal["conditional", "darknet", "last_over_half"]
# COCO's names of classes that VOC, and the published trees, call otherwise.
VOC_WORDS = {
    "motorcycle": "motorbike",
    "airplane": "aeroplane",
    "couch": "sofa",
    "tv": "tvmonitor",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
}


class TreeChoices(Options):
    """Where a tree comes from (`tree_of`, `words_of`), and how it answers (`WordTree.decode`)."""

    tree: str | None = setting(None, "file of the tree: a line `id parent` for each word")
    tree_names: str | None = setting(None, "file of the tree's words, one a line; none: the ids")
    class_map: tuple[str, str] | None = setting(
        None, "files: names of the data's classes, and the node of the tree that each is"
    )
    parents: tuple[Annotated[int, Field(ge=-1, le=1_000_000)], ...] | None = setting(
        None, "the tree without a file: each class's parent, -1 = a root; none: all are roots"
    )
    ids: tuple[str, ...] | None = setting(None, "the ids of the tree's words, without a file")
    words: dict[str, Count] | None = setting(
        None, "names of the data's classes: their nodes in the tree"
    )
    tree_decode: Decoder = habit("conditional", "how a box's word is read off the tree")


class WordTree:
    """parents: each node's parent, -1 for a root; a parent comes before its children and siblings
    lie together. ids: the nodes' WordNet ids, or their numbers; names: what people read.

    Raises InputError where that is not so.
    """

    def __init__(
        self,
        parents: Sequence[int],
        ids: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        *,
        file: str | Path | None = None,
    ) -> None:
        self.parents = tuple(int(p) for p in parents)
        self.ids = tuple(ids) if ids is not None else tuple(map(str, range(len(self.parents))))
        if len(self.ids) != len(self.parents):
            problem = f"{len(self.ids)} for the {len(self.parents)} nodes of the tree"
            raise InputError(problem, file=file, field="ids", value=self.ids)
        if not self.parents:
            raise InputError("a tree needs a node", file=file, field="parents", value=())
        seen: set[int] = set()
        before = None
        for node, parent in enumerate(self.parents):
            field = f"parents.{node}" if file is None else f"line {node + 1}"
            if not -1 <= parent < node:
                problem = "a parent must come before its children"
                raise InputError(problem, file=file, field=field, value=parent)
            if parent != before and parent in seen:
                raise InputError("siblings must lie together", file=file, field=field, value=parent)
            seen.add(parent)
            before = parent
        self.names = _distinct(names or self.ids, self.ids, file)
        self._on: dict[torch.device, Index] = {}

    def __len__(self) -> int:
        return len(self.parents)

    # -- files ------------------------------------------------------------------------------------

    @classmethod
    def read(cls, path: str | Path, names: str | Path | None = None) -> WordTree:
        """Darknet's format, a line `id parent` for each node; names: a file with a line for each"""
        path = Path(path)
        ids, parents = [], []
        for number, line in enumerate(read_lines(path), 1):
            parts = line.split()
            try:
                if len(parts) != 2:
                    raise ValueError
                ids.append(parts[0])
                parents.append(int(parts[1]))
            except ValueError:
                problem = "must be: id, number of the parent"
                raise InputError(problem, file=path, field=f"line {number}", value=line) from None
        words = None
        if names is not None:
            words = read_lines(Path(names))
            if len(words) != len(ids):
                raise InputError(f"{len(words)} names for {len(ids)} nodes", file=names)
        return cls(parents, ids, words, file=path)

    def write(self, path: str | Path) -> None:
        """Write Darknet's format, byte for byte what `read` takes."""
        from boxatlas.files import write_text

        rows = zip(self.ids, self.parents, strict=True)
        write_text(path, "".join(f"{name} {parent}\n" for name, parent in rows))

    def read_map(self, path: str | Path) -> list[int]:
        """A map into this tree: the node of each class, one a line."""
        nodes = []
        for number, line in enumerate(read_lines(Path(path)), 1):
            if not line.strip().isdigit() or int(line) >= len(self):
                problem = f"is not a node of the tree (0 to {len(self) - 1})"
                raise InputError(problem, file=path, field=f"line {number}", value=line)
            nodes.append(int(line))
        return nodes

    # -- making one -------------------------------------------------------------------------------

    @classmethod
    def from_paths(
        cls, paths: Mapping[str, Sequence[Sequence[str]]], names: Mapping[str, str] | None = None
    ) -> WordTree:
        """The tree of section 4 from each word's hypernym paths (root first, the word last).

        First all words with one path; then, for those with several, the path that adds the fewest
        edges, the word that needs fewest first. A path joins the tree at its last word that is
        there already. Children are numbered breadth first. Raises InputError for a path that does
        not end at its word.
        """
        for word, ways in paths.items():
            if not ways or any(not way or way[-1] != word for way in ways):
                raise InputError("a path must end at its word", field="paths", value=word)
        parent = _grown(paths)
        children: dict[str | None, list[str]] = {}
        for word, above in parent.items():
            children.setdefault(above, []).append(word)
        order: list[str] = list(children.get(None, []))
        for word in order:  # grows as it goes: breadth first keeps siblings together
            order += children.get(word, [])
        number = {word: i for i, word in enumerate(order)}
        parents = [-1 if (p := parent[word]) is None else number[p] for word in order]
        ids = ["_".join(word.split()) for word in order]  # a file's ids hold no space
        return cls(parents, ids, [(names or {}).get(word, word) for word in order])

    # -- what it says -----------------------------------------------------------------------------

    @cached_property
    def group_of(self) -> tuple[int, ...]:
        """[N]: the group of siblings each node is in; group 0 holds the roots."""
        out, group = [], -1
        for node, parent in enumerate(self.parents):
            group += node == 0 or parent != self.parents[node - 1]
            out.append(group)
        return tuple(out)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """[G + 1]: group g holds the nodes offsets[g] to offsets[g + 1]."""
        starts = [i for i, g in enumerate(self.group_of) if i == 0 or g != self.group_of[i - 1]]
        return (*starts, len(self))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """[G]: nodes of each group."""
        return tuple(b - a for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True))

    @cached_property
    def child_group(self) -> tuple[int, ...]:
        """[N]: the group of a node's children, -1 for a leaf."""
        out = [-1] * len(self)
        for start in self.offsets[:-1]:
            if self.parents[start] >= 0:
                out[self.parents[start]] = self.group_of[start]
        return tuple(out)

    @cached_property
    def depth(self) -> tuple[int, ...]:
        """[N]: edges to the root."""
        out: list[int] = []
        for parent in self.parents:
            out.append(0 if parent < 0 else out[parent] + 1)
        return tuple(out)

    def path(self, node: int) -> list[int]:
        """The nodes from `node` up to its root."""
        out = [node]
        while self.parents[out[-1]] >= 0:
            out.append(self.parents[out[-1]])
        return out

    @property
    def leaves(self) -> list[int]:
        return [node for node, group in enumerate(self.child_group) if group < 0]

    # -- probabilities ----------------------------------------------------------------------------

    def on(self, device: torch.device | str) -> Index:
        """The tables of this tree as tensors, made once for each device."""
        device = torch.device(device)
        if device not in self._on:
            self._on[device] = Index(self, device)
        return self._on[device]

    def conditional(self, logits: Tensor) -> Tensor:
        """Logits [..., N] -> the probability of each node given its parent: a softmax a group."""
        own = self.on(logits.device)
        flat = logits.reshape(-1, len(self)).t().contiguous()  # [N, n]: groups lie along axis 0
        top = torch.segment_reduce(flat, "max", lengths=own.sizes, axis=0)
        power = (flat - top[own.group_of]).exp_()
        total = torch.segment_reduce(power, "sum", lengths=own.sizes, axis=0)
        return power.div_(total[own.group_of]).t().reshape(logits.shape)

    def absolute(self, conditional: Tensor) -> Tensor:
        """[..., N] given the parent -> [..., N] of the node itself: products down the tree."""
        own = self.on(conditional.device)
        out = conditional.clone()
        for nodes, parents in own.levels:  # one step a level, not a node
            out[..., nodes] *= out[..., parents]
        return out

    def decode(
        self, conditional: Tensor, threshold: float = 0.5, decoder: Decoder = "conditional"
    ) -> Tensor:
        """The word to answer with, [...] int64, from [..., N] probabilities given the parent.

        "conditional" (section 4): from the root take the best child as long as the product stays
        above the threshold. "darknet" walks alike, but multiplies absolute probabilities, as that
        program has done since 2017, and so stops earlier. "last_over_half": the last node whose
        absolute probability is above the threshold, -1 where there is none.
        """
        flat = conditional.reshape(-1, len(self))
        if decoder == "conditional":
            node = self._walk(flat, threshold)
        elif decoder == "darknet":
            node = self._walk(self.absolute(flat), threshold)
        else:
            over = self.absolute(flat) > threshold
            number = torch.arange(len(self), device=flat.device)
            node = torch.where(over, number, -1).amax(dim=1)
        return node.reshape(conditional.shape[:-1])

    def _walk(self, values: Tensor, threshold: float) -> Tensor:
        own = self.on(values.device)
        rows = torch.arange(len(values), device=values.device)
        group = torch.zeros_like(rows)
        product = values.new_ones(len(rows))
        answer = torch.zeros_like(rows)
        while len(rows):  # at most D times
            members, real = own.members[group], own.real[group]
            best = values[rows[:, None], members].masked_fill(~real, -1.0).max(dim=1)
            node = members.gather(1, best.indices[:, None])[:, 0]
            product = product * best.values
            passed = product > threshold
            # A word that does not pass leaves its parent as the answer; a root stands.
            answer[rows] = torch.where(passed | (group == 0), node, own.parents[node])
            group = own.child_group[node]
            go = passed & (group >= 0)
            rows, group, product = rows[go], group[go], product[go]
        return answer


class Index:
    """A tree's tables on one device.

    parents, group_of, child_group [N]; sizes [G]; members [G, S] nodes of each group, real [G, S]
    which of them are not padding; paths [N, D] from the node up, -1 = past the root; levels: for
    each depth from 1, (nodes, their parents).
    """

    def __init__(self, tree: WordTree, device: torch.device) -> None:
        def table(values: Sequence[int]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.int64, device=device)

        self.parents, self.group_of = table(tree.parents), table(tree.group_of)
        self.child_group, self.sizes = table(tree.child_group), table(tree.sizes)
        place = torch.arange(max(tree.sizes), device=device)
        self.real = place < self.sizes[:, None]
        start = table(tree.offsets[:-1])[:, None]
        self.members = torch.where(self.real, start + place, start)
        depth = table(tree.depth)
        self.levels = []
        for level in range(1, max(tree.depth) + 1):
            nodes = (depth == level).nonzero()[:, 0]
            self.levels.append((nodes, self.parents[nodes]))
        steps = [torch.arange(len(tree), device=device)]
        for _ in range(max(tree.depth)):
            last = steps[-1]
            steps.append(torch.where(last >= 0, self.parents[last.clamp(min=0)], -1))
        self.paths = torch.stack(steps, dim=1)


def tree_of(classes: Sequence[str], choices: TreeChoices) -> WordTree:
    """The tree of a file, whose words are then the classes, or over these classes.

    Raises InputError where both a file and parents are given, or not a parent for each class.
    """
    if choices.tree is not None:
        if choices.parents is not None:
            raise InputError(
                "give the tree as a file or as parents", field="tree", value=choices.tree
            )
        if choices.ids is not None:
            raise InputError("the tree's file has its own", field="ids", value=choices.ids)
        return WordTree.read(choices.tree, choices.tree_names)
    if choices.tree_names is not None:
        raise InputError("names the words of a tree", field="tree_names", hint="give tree too")
    parents = choices.parents or (-1,) * len(classes)
    if len(parents) != len(classes):
        problem = f"{len(parents)} nodes for {len(classes)} classes"
        raise InputError(problem, field="parents", value=parents)
    return WordTree(parents, choices.ids, classes)


def words_of(tree: WordTree, choices: TreeChoices) -> dict[str, int]:
    """The data's own names of classes: their nodes. Raises InputError for one outside the tree."""
    words = dict(choices.words or {})
    if choices.class_map is not None:
        names, nodes = (read_lines(Path(file)) for file in choices.class_map)
        mapped = tree.read_map(choices.class_map[1])
        if len(names) != len(nodes):
            problem = f"{len(nodes)} nodes for {len(names)} names"
            raise InputError(problem, field="class_map", file=choices.class_map[1])
        words.update(zip(names, mapped, strict=True))
    for name, node in words.items():
        if not 0 <= node < len(tree):
            problem = f"is not a node of the tree (0 to {len(tree) - 1})"
            raise InputError(problem, field=f"words.{name}", value=node)
    return words


def _grown(paths: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, str | None]:
    """Word -> parent, by the rule of `WordTree.from_paths`."""
    parent: dict[str, str | None] = {}
    missing: dict[str, list[tuple[str, int]]] = {}  # word not yet there: the paths it lies on

    def needed(way: Sequence[str]) -> int:
        """How many words a path adds: those after its last one that is there."""
        return next((i for i, w in enumerate(reversed(way)) if w in parent), len(way))

    def add(way: Sequence[str]) -> list[str]:
        start = len(way) - needed(way)
        before = way[start - 1] if start else None
        for word in way[start:]:
            parent[word], before = before, word
        return list(way[start:])

    for ways in paths.values():
        if len(ways) == 1:
            add(ways[0])
    order = {word: i for i, word in enumerate(paths)}
    heap: list[tuple[int, int, int, str]] = []  # words added, then the order of the words
    for word, ways in paths.items():
        for number, way in enumerate(ways):
            if word not in parent:
                heap.append((needed(way), order[word], number, word))
                for w in way:
                    if w not in parent:
                        missing.setdefault(w, []).append((word, number))
    heapq.heapify(heap)
    while heap:
        cost, _, number, word = heapq.heappop(heap)
        way = paths[word][number]
        if word in parent or cost != needed(way):
            continue  # there already, or cheaper by now: that entry comes first
        for new in add(way):
            for other, place in missing.pop(new, ()):
                if other not in parent:
                    entry = (needed(paths[other][place]), order[other], place, other)
                    heapq.heappush(heap, entry)
    return parent


def _distinct(names: Sequence[str], ids: Sequence[str], file: str | Path | None) -> tuple[str, ...]:
    """Names that differ: one that several nodes bear is followed by the node's id."""
    if len(names) != len(ids):
        raise InputError(f"{len(ids)} nodes but {len(names)} names", file=file)
    count = Counter(names)
    return tuple(
        name if count[name] == 1 else f"{name} ({id_})"
        for name, id_ in zip(names, ids, strict=True)
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without the empty ones at its end."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except UnicodeDecodeError:
        raise InputError("is not a text file", file=path) from None
    return text.rstrip().splitlines()
