"""Trees of tokens: every sequence whole, every run of tokens once, images never cut."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.backends.forest import MIN_HEADER, STEP, Node, TokenRow, batches, forest

KINDS = st.sampled_from([(), ("completions",), ("header",), ("completions", "header")])


def paths(trees, before=()):
    """Every node with the nodes above it."""
    for tree in trees:
        yield (*before, tree)
        yield from paths(tree.children, (*before, tree))


def ending_at(trees):
    """By sequence, the nodes from the root to where it ends."""
    return {i: path for path in paths(trees) for i in path[-1].ending}


@st.composite
def sequences(draw):
    """Groups with a header, prompts, completions; some of them equal, some very short.

    Numbers only: the shape checks draw at random, which a strategy must not.
    """
    made = []
    for group in range(draw(st.integers(1, 3))):
        header = tuple(draw(st.lists(st.integers(0, 3), min_size=1, max_size=30)))
        whole = draw(st.integers(1, len(header)))
        for number in range(draw(st.integers(1, 4))):
            prompt = (*header, *draw(st.lists(st.integers(0, 3), max_size=9)))
            for said in draw(
                st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=3)
            ):
                made.append(((*prompt, *said), 10 * group + number, group, whole))
    return made


@given(sequences(), KINDS)
def test_every_sequence_is_told_in_full_from_the_root_to_its_end(numbers, kinds):
    rows = [TokenRow(*each) for each in numbers]
    found = ending_at(forest(rows, kinds))
    assert sorted(found) == list(range(len(rows)))
    for i, path in found.items():
        told = [rows[node.members[0]].ids[node.start : node.stop] for node in path]
        assert sum(told, ()) == rows[i].ids
        assert path[0].start == 0 and all(len(node) > 0 for node in path)
        assert all(i in node.members for node in path)


@given(sequences(), KINDS)
def test_what_belongs_together_is_in_the_root(numbers, kinds):
    rows = [TokenRow(*each) for each in numbers]
    for i, path in ending_at(forest(rows, kinds)).items():
        assert path[0].stop >= rows[i].whole


@given(sequences())
def test_without_sharing_every_sequence_is_a_tree_of_its_own(numbers):
    rows = [TokenRow(*each) for each in numbers]
    trees = forest(rows, ())
    assert len(trees) == len(rows) and not any(tree.children for tree in trees)


@given(sequences(), KINDS)
def test_members_of_a_node_have_its_tokens(numbers, kinds):
    rows = [TokenRow(*each) for each in numbers]
    for path in paths(forest(rows, kinds)):
        node = path[-1]
        assert len({rows[i].ids[: node.stop] for i in node.members}) == 1


def test_completions_of_one_prompt_run_it_once():
    prompt = tuple(range(24))
    rows = [TokenRow((*prompt, *said), 0, 0) for said in ((50, 51), (60, 61), (50, 61))]
    (tree,) = forest(rows, ["completions"])
    assert (len(tree), [len(child) for child in tree.children]) == (24, [2, 2, 2])


def test_equal_prompts_run_once_and_a_completion_may_be_the_beginning_of_another():
    rows = [TokenRow(ids, 0, 0) for ids in ((1, 2), (1, 2), (1, 2, 3))]
    (tree,) = forest(rows, ["completions"])
    assert len(tree) == 2 and tree.ending == (0, 1)
    assert [child.members for child in tree.children] == [(2,)]


def test_prompts_behind_a_header_have_lengths_that_others_have_too():
    header = tuple(range(100, 100 + MIN_HEADER))
    rows = [
        TokenRow((*header, n, *range(n), said), prompt=n, group=0)
        for n in range(11)
        for said in (7, 8)
    ]
    (tree,) = forest(rows, ["completions", "header"])
    inner = [node for node in tree.children if node.children]
    assert len(tree) == MIN_HEADER and inner
    assert {len(node) % STEP for node in inner} == {0}


def test_a_short_beginning_is_no_header():
    rows = [TokenRow((*range(MIN_HEADER - 1), n, n), prompt=n, group=0) for n in (50, 60)]
    assert len(forest(rows, ["header"])) == 2


def test_other_images_are_other_headers():
    ids = tuple(range(40))
    rows = [TokenRow((*ids, n), prompt=n, group=n) for n in (50, 60)]
    assert len(forest(rows, ["completions", "header"])) == 2


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 100), st.booleans())
def test_batches_hold_all_nodes_within_the_budget(lengths, budget, exact):
    nodes = [Node((i,), 0, length) for i, length in enumerate(lengths)]
    made = list(batches(nodes, budget, exact=exact))
    assert Counter(node for some in made for node in some) == Counter(nodes)
    for some in made:
        assert len(some) == 1 or len(some) * max(map(len, some)) <= budget
        assert not exact or len({len(node) for node in some}) == 1


@pytest.mark.parametrize("past", [0, 5])
def test_prompts_that_others_continue_have_one_length_unless_they_come_first(past):
    leaf = (Node((0,), 9, 10),)
    nodes = [Node((i,), 0, 1 + i % 3, leaf) for i in range(9)]
    lengths = [{len(node) for node in some} for some in batches(nodes, 1000, past=past)]
    assert lengths == ([{3}, {2}, {1}] if past else [{1, 2, 3}])


def test_the_keys_and_values_that_a_batch_holds_are_bounded():
    nodes = [Node((i,), 100, 101) for i in range(64)]
    assert max(map(len, batches(nodes, 128, past=100))) == 2
