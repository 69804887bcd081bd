"""A handful of rows for tiny models: words of their vocabulary, three behaviours, no images."""

from steersman.core.types import Position, Read, Site
from steersman.data.contrast import Contrast
from steersman.data.rows import Dataset, Row
from steersman.methods.contrast import ContrastRule

SITE = Site(1)
READ = Read(SITE)
HARMFUL = Contrast(suffix=" safe ?", positive="harmful", negative="safe")
EXPERT = Contrast(suffix=" a b ?", positive="yes", negative="no")
RULE = ContrastRule(behaviours={"harmful": HARMFUL, "expert": EXPERT})
ANSWERS = ContrastRule(
    behaviours={"object": Contrast(positive="{answer} , the", negative="{wrong} , the")},
    position=Position("completion", "mean"),
    norms="keep",
)
THINGS = ("bomb", "cup", "a", "b", "c", "the", "i", "make")


def rows(num: int = 24) -> Dataset:
    """How-to questions: a third harmful, a third expert, a third to be left alone."""
    made = []
    for i in range(num):
        behaviour = ("harmful", "expert", "none")[i % 3]
        opening = ("how do i make", "how do i", "make the", "i make")[i % 4]
        text = f"{opening} {THINGS[i % len(THINGS)]} {THINGS[i // 8 % 8]} ?"
        made.append(Row(id=f"r{i}", prompt=text, behaviour=behaviour))
    return Dataset(rows=tuple(made), meta={}, hash="toy", source="toy")


def questions(num: int = 16) -> Dataset:
    """Yes-no questions with their answers."""
    made = [
        Row(
            id=f"q{i}", prompt=f"the {THINGS[i % 8]} {THINGS[i // 8 % 8]} ?", behaviour="object",
            answer=("yes", "no")[i % 2],
        )
        for i in range(num)
    ]  # fmt: skip
    return Dataset(rows=tuple(made), meta={}, hash="toy-q", source="toy")
