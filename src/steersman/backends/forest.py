"""Which tokens prompts have in common, and in what order they are run so that each runs once.

    header  ->  prompt  ->  completion

Prompts with the same images and system prompt begin alike (the header); the completions of one
prompt have the whole prompt in common. Every run of tokens is a node, and children continue the
keys and values of their parent.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from os.path import commonprefix
from typing import Literal

Kind = Literal["header", "completions"]
MIN_HEADER = 16  # tokens; a shorter header is not worth a pass of its own
STEP = 4  # lengths of prompts behind a header are cut to a multiple, so that many run together
CACHE_FACTOR = 2  # a pass may hold so many times the budget in keys and values


@dataclass(frozen=True, slots=True)
class TokenRow:
    """The tokens of one prompt, and what tells it apart.

    Attributes:
        prompt: equal for completions of the same prompt.
        group: equal for prompts that may begin alike.
        whole: tokens at the beginning that may not be cut apart (an image is among them).
    """

    ids: tuple[int, ...]
    prompt: int
    group: int
    whole: int = 1


@dataclass(frozen=True, slots=True)
class Node:
    """A run of tokens, from `start` to `stop`, of the sequences `members`."""

    members: tuple[int, ...]
    start: int
    stop: int
    children: tuple["Node", ...] = ()

    @property
    def ending(self) -> tuple[int, ...]:
        """Members that no child continues."""
        on = {member for child in self.children for member in child.members}
        return tuple(member for member in self.members if member not in on)

    def __len__(self) -> int:
        return self.stop - self.start


def forest(sequences: Sequence[TokenRow], kinds: Iterable[Kind]) -> list[Node]:
    """All sequences as trees that share what `kinds` allow to share."""
    allowed = set(kinds)
    trees: list[Node] = []
    for group in _together(range(len(sequences)), lambda i: sequences[i].group):
        prompts = [
            _prompt(sequences, members, share="completions" in allowed)
            for members in _together(group, lambda i: sequences[i].prompt)
        ]
        nodes = [node for made in prompts for node in made]
        trees += _under_header(sequences, nodes) if "header" in allowed else nodes
    return trees


def _together(items: Iterable[int], key: Callable[[int], int]) -> list[list[int]]:
    """Items with one key, in the order in which keys come up."""
    found: dict[int, list[int]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())


def _prompt(sequences: Sequence[TokenRow], members: Sequence[int], *, share: bool) -> list[Node]:
    """One prompt and its completions; equal sequences are one."""
    same: dict[tuple[int, ...], list[int]] = {}
    for i in members:
        same.setdefault(sequences[i].ids, []).append(i)
    if not share or len(same) == 1:
        each = same.values() if share else ([i] for i in members)
        return [Node(tuple(those), 0, len(sequences[those[0]].ids)) for those in each]
    cut = len(commonprefix(list(same)))
    if cut < max(sequences[i].whole for i in members):
        return [Node(tuple(those), 0, len(ids)) for ids, those in same.items()]
    leaves = [Node(tuple(those), cut, len(ids)) for ids, those in same.items() if len(ids) > cut]
    return [Node(tuple(members), 0, cut, tuple(leaves))]


def _under_header(sequences: Sequence[TokenRow], nodes: Sequence[Node]) -> list[Node]:
    """Prompts that begin alike, behind one header."""
    if len(nodes) < 2:
        return list(nodes)
    first = [sequences[node.members[0]].ids for node in nodes]
    cut = min(len(commonprefix(first)), min(node.stop for node in nodes) - 1)
    whole = max(sequences[i].whole for node in nodes for i in node.members)
    if cut < max(MIN_HEADER, whole):
        return list(nodes)
    behind = [below for node in nodes for below in _behind(node, cut)]
    members = tuple(i for node in nodes for i in node.members)
    return [Node(members, 0, cut, tuple(behind))]


def _behind(node: Node, cut: int) -> list[Node]:
    """What follows a header; prompts with completions are cut to a length that others have too."""
    if not node.children:
        return [Node(node.members, cut, node.stop)]
    stop = cut + (node.stop - cut) // STEP * STEP
    longer = [Node(child.members, stop, child.stop) for child in node.children]
    if node.ending and stop < node.stop:
        longer.append(Node(node.ending, stop, node.stop))
    if stop == cut:
        return longer
    return [Node(node.members, cut, stop, tuple(longer))]


def batches(
    nodes: Sequence[Node],
    budget: int,
    *,
    past: int = 0,
    exact: bool = False,
    limit: int | None = None,
) -> Iterator[list[Node]]:
    """Nodes that run in one pass: of similar length, and no more tokens than the budget.

    Args:
        past: tokens before the nodes, whose keys and values are held.
        exact: nodes of one length only, where padding is not to be had.
        limit: nodes that end behind it run with others of their length only.
    """

    def order(node: Node) -> tuple[bool, int]:
        return (not node.children, -len(node))

    def beyond(node: Node) -> bool:
        return limit is not None and node.stop > limit

    for (leaf, _), alike in groupby(
        sorted(nodes, key=order),
        key=lambda node: (
            not node.children,
            len(node) if exact or (past and node.children) or beyond(node) else 0,
        ),
    ):
        part: list[Node] = []
        for node in alike:
            longest = len(part[0]) if part else len(node)
            num = len(part) + 1
            held = 0 if leaf and not past else num * (past + longest)
            if part and (num * longest > budget or held > CACHE_FACTOR * budget):
                yield part
                part = []
            part.append(node)
        yield part
