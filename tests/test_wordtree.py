"""WordTree: Darknet's files, the rule that builds one, probabilities and answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boxatlas.errors import InputError
from boxatlas.verify import Case, handlers, run_case
from boxatlas.wordtree import WordTree

# thing -> animal -> (dog -> (corgi, husky), cat); thing -> car; and a second root.
PARENTS = [-1, -1, 0, 0, 2, 2, 4, 4]
NAMES = ["thing", "air", "animal", "car", "dog", "cat", "corgi", "husky"]


@pytest.fixture
def tree() -> WordTree:
    return WordTree(PARENTS, names=NAMES)


def test_agrees_with_darknet(parity_dir: Path):
    case = Case(parity_dir / "darknet_tree_9k.json")
    result = run_case(case, handlers()[case.case])
    assert result.status == "pass", result.reason


def test_groups_paths_and_leaves(tree: WordTree):
    assert tree.group_of == (0, 0, 1, 1, 2, 2, 3, 3)
    assert tree.child_group == (1, -1, 2, -1, 3, -1, -1, -1)
    assert tree.sizes == (2, 2, 2, 2)
    assert tree.path(6) == [6, 4, 2, 0]
    assert tree.leaves == [1, 3, 5, 6, 7]
    assert tree.depth == (0, 0, 1, 1, 2, 2, 3, 3)


def test_a_written_tree_is_read_as_it_was(tree: WordTree, tmp_path: Path):
    tree.write(tmp_path / "a.tree")
    (tmp_path / "a.names").write_text("".join(f"{name}\n" for name in NAMES))
    back = WordTree.read(tmp_path / "a.tree", tmp_path / "a.names")
    assert (back.parents, back.ids, back.names) == (tree.parents, tree.ids, tree.names)
    back.write(tmp_path / "b.tree")
    assert (tmp_path / "b.tree").read_bytes() == (tmp_path / "a.tree").read_bytes()


@pytest.mark.data
def test_darknets_own_tree_is_written_byte_for_byte(shared_data: Path, tmp_path: Path):
    file = shared_data / "wordtree9k" / "9k.tree"
    tree = WordTree.read(file, file.with_name("9k.names"))
    assert len(tree) == len(set(tree.names)) == 9418
    tree.write(tmp_path / "9k.tree")
    assert (tmp_path / "9k.tree").read_text().split() == file.read_text().split()
    person = tree.read_map(file.with_name("coco9k.map"))[0]
    assert tree.names[person].split(" (")[0] == "person"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a -1\nb 2\nc 0\n", "line 2"),
        ("a -1\nb 0\nc -1\n", "line 3: siblings"),
        ("a -1\nb x\n", "line 2"),
        ("", "needs a node"),
        ("a -1 3\n", "line 1"),
    ],
)
def test_a_damaged_tree_is_refused_by_its_line(text: str, problem: str, tmp_path: Path):
    (tmp_path / "a.tree").write_text(text)
    with pytest.raises(InputError, match=problem):
        WordTree.read(tmp_path / "a.tree")


def test_probabilities_by_hand(tree: WordTree):
    logits = torch.log(torch.tensor([3.0, 1, 4, 1, 1, 1, 9, 1]))
    conditional = tree.conditional(logits)
    wanted = [0.75, 0.25, 0.8, 0.2, 0.5, 0.5, 0.9, 0.1]
    assert conditional.tolist() == pytest.approx(wanted)
    absolute = tree.absolute(conditional)
    assert absolute[6].item() == pytest.approx(0.75 * 0.8 * 0.5 * 0.9)


def test_three_ways_to_answer(tree: WordTree):
    conditional = torch.tensor([[0.95, 0.05, 0.9, 0.1, 0.8, 0.2, 0.6, 0.4]])
    # Down the tree the product is 0.95, 0.855, 0.684, 0.41: dog is the last above a half.
    assert tree.decode(conditional, 0.5).tolist() == [4]
    assert tree.decode(conditional, 0.4).tolist() == [6]
    assert tree.decode(conditional, 0.5, "last_over_half").tolist() == [4]
    # Darknet multiplies absolute values: 0.95, 0.95 * 0.855 = 0.81, 0.81 * 0.684 = 0.56.
    assert tree.decode(conditional, 0.5, "darknet").tolist() == [4]
    assert tree.decode(conditional, 0.6, "darknet").tolist() == [2]
    # The best root stands however unsure; the last over a half may not exist.
    unsure = torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]])
    assert tree.decode(unsure, 0.5).tolist() == [0]
    assert tree.decode(unsure, 0.5, "last_over_half").tolist() == [-1]


@st.composite
def forests(draw: st.DrawFn) -> WordTree:
    """Random trees in Darknet's order: children of one node together, after it."""
    parents, frontier = [-1] * draw(st.integers(1, 3)), 0
    while frontier < len(parents) and len(parents) < 30:
        parents += [frontier] * draw(st.integers(0, 4))
        frontier += 1
    return WordTree(parents)


@given(tree=forests(), seed=st.integers(0, 1000))
def test_leaves_share_all_probability(tree: WordTree, seed: int):
    logits = torch.randn(3, len(tree), generator=torch.Generator().manual_seed(seed)) * 4
    absolute = tree.absolute(tree.conditional(logits))
    assert torch.allclose(absolute[:, tree.leaves].sum(1), torch.ones(3), atol=1e-5)


@given(tree=forests(), seed=st.integers(0, 1000), threshold=st.floats(0.05, 0.95))
def test_an_answer_is_on_the_path_of_best_children(tree: WordTree, seed: int, threshold: float):
    logits = torch.randn(1, len(tree), generator=torch.Generator().manual_seed(seed)) * 4
    conditional = tree.conditional(logits)
    answer = int(tree.decode(conditional, threshold)[0])
    for node in tree.path(answer):  # each is the best of its siblings
        siblings = [i for i, g in enumerate(tree.group_of) if g == tree.group_of[node]]
        assert conditional[0, node] == conditional[0, siblings].max()


# -- building one ---------------------------------------------------------------------------------


def test_of_two_paths_the_one_that_adds_fewest_edges():
    """Section 4: words of one path first; then the shortest addition."""
    paths = {
        "dog": [["object", "animal", "dog"]],
        # three new edges or one
        "puppy": [["object", "young", "pet", "puppy"], ["object", "animal", "dog", "puppy"]],
    }
    tree = WordTree.from_paths(paths)
    assert [tree.names[n] for n in tree.path(tree.names.index("puppy"))] == [
        "puppy",
        "dog",
        "animal",
        "object",
    ]
    assert "young" not in tree.names


def test_the_word_that_needs_fewest_is_added_first():
    """Once b is in, a joins it by one edge instead of two."""
    paths = {
        "x": [["root", "x"]],
        "a": [["root", "p", "a"], ["root", "x", "b", "a"]],
        "b": [["root", "q", "r", "b"], ["root", "x", "b"]],
    }
    tree = WordTree.from_paths(paths)
    above = {name: tree.parents[i] for i, name in enumerate(tree.names)}
    assert tree.names[above["b"]] == "x"
    assert tree.names[above["a"]] == "b"
    assert set(tree.names) == {"root", "x", "b", "a"}


def test_a_path_joins_at_its_last_word_that_is_there():
    """A word keeps the parent it has; what lies above it on another path is not added."""
    paths = {
        "bat": [["thing", "animal", "bat"]],
        "vampire bat": [
            ["thing", "myth", "bat", "vampire bat"],
            ["thing", "myth", "horror", "creature", "vampire bat"],
        ],
    }
    tree = WordTree.from_paths(paths)
    assert "myth" not in tree.names
    assert tree.names[tree.parents[tree.names.index("vampire bat")]] == "bat"
    assert tree.ids[tree.names.index("vampire bat")] == "vampire_bat"  # ids hold no space


def test_a_path_that_ends_elsewhere_is_refused():
    with pytest.raises(InputError, match="must end at its word"):
        WordTree.from_paths({"dog": [["object", "cat"]]})


def test_names_that_several_nodes_bear_are_told_apart():
    tree = WordTree([-1, 0, 0], ids=["n1", "n2", "n3"], names=["thing", "crane", "crane"])
    assert tree.names == ("thing", "crane (n2)", "crane (n3)")
