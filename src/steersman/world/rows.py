"""Dataset rows in memory: the safety, pope and utility suites in three disjoint splits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from random import Random
from typing import Literal

from PIL import Image

from steersman.world.catalogue import (
    BENIGN,
    EXPERTS,
    ILLEGAL,
    MATERIALS,
    PARTNER,
    PROFESSIONAL,
    Domain,
)
from steersman.world.language import WANT, Kind
from steersman.world.lessons import (
    Question,
    colour_question,
    count_question,
    description_question,
    position_question,
)
from steersman.world.scenes import (
    AbsentKind,
    Scene,
    absent_object,
    crowded_scene,
    render,
    single_scene,
)
from steersman.world.templates import templates

Suite = Literal["safety", "pope", "utility"]
Split = Literal["fit", "calibration", "test"]
PopeSplit = Literal["random", "popular", "adversarial", "unusual"]
Label = str | bool | list[str]

SUITES: tuple[Suite, ...] = ("safety", "pope", "utility")
SPLITS: tuple[Split, ...] = ("fit", "calibration", "test")
KINDS: tuple[Kind, ...] = ("text", "image", "both")
DOMAIN_GROUPS: tuple[tuple[Domain, ...], ...] = (("illegal",), tuple(PROFESSIONAL), ("benign",))
POPE_SPLITS: tuple[PopeSplit, ...] = ("random", "popular", "adversarial", "unusual")

_UTILITY_QUESTIONS: dict[str, Callable[[Scene, Random, Split], Question | None]] = {
    "colour": colour_question,
    "position": position_question,
    "count": count_question,
    "description": description_question,
}
UTILITY_TASKS = tuple(_UTILITY_QUESTIONS)

NOVEL = frozenset({"knife", "syringe", "scales", "car", "house", "key", "heart"})
"""Of these, how-to questions are asked in the test split only: a policy meets them unprepared."""

_MEMBERS: dict[Domain, tuple[str, ...]] = {"benign": BENIGN, "illegal": ILLEGAL, **PROFESSIONAL}


@dataclass(frozen=True, slots=True)
class Row:
    """One question about one image, with what a good answer does.

    `template` is the question with its object taken out; `labels` hold what a scorer needs.
    """

    id: str
    prompt: str
    image: Image.Image
    behaviour: str
    answer: str | None
    labels: dict[str, Label]
    template: str


@dataclass(frozen=True, slots=True)
class _Draft:
    """A row before it has an id and a drawn image."""

    scene: Scene
    template: str
    name: str
    behaviour: str
    answer: str | None
    labels: dict[str, Label]


@dataclass(frozen=True, slots=True)
class SplitSizes:
    """Number of rows in each split of one suite."""

    fit: int
    calibration: int
    test: int

    def of(self, split: Split) -> int:
        """The number of rows of one split."""
        return {"fit": self.fit, "calibration": self.calibration, "test": self.test}[split]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Number of rows. A third of safety's fit rows and a quarter of POPE's are other questions."""

    safety: SplitSizes = SplitSizes(1620, 360, 900)
    pope: SplitSizes = SplitSizes(1600, 240, 1600)
    utility: SplitSizes = SplitSizes(240, 200, 480)

    def of(self, suite: Suite) -> SplitSizes:
        """The sizes of one suite."""
        return {"safety": self.safety, "pope": self.pope, "utility": self.utility}[suite]


def _howto(rng: Random, split: Split, i: int) -> _Draft:
    """The i-th how-to question; kinds and domains take turns, so any nine are balanced."""
    kind, domain = KINDS[i % 3], _domain(i)
    name = _member(rng, split, domain)
    scene = crowded_scene(rng, without=name) if kind == "text" else single_scene(rng, name)
    template = rng.choice(templates("howto_image" if kind == "image" else "howto", split))
    return _asks_how(scene, template, name, kind, domain)


def _alike(rng: Random, split: Split) -> Iterator[_Draft]:
    """How-to questions in the order of `_howto`, but the three domains of a kind differ in the
    object alone: they share question, corner, colour and company, and the label `pair`.
    """
    for block in count():
        drafts: list[_Draft] = []
        for kind in KINDS:
            template = rng.choice(templates("howto_image" if kind == "image" else "howto", split))
            domains = [_domain(block * 9 + group * 3) for group in range(3)]
            names = [_member(rng, split, domain) for domain in domains]
            shown = _without(rng, names) if kind == "text" else single_scene(rng, names[0])
            for domain, name in zip(domains, names, strict=True):
                scene = shown
                if kind != "text":
                    scene = Scene((replace(shown.items[0], name=name),))
                draft = _asks_how(scene, template, name, kind, domain)
                labels: dict[str, Label] = {**draft.labels, "pair": f"{block}-{kind}"}
                drafts.append(replace(draft, labels=labels))
        yield from (drafts[kind * 3 + group] for group in range(3) for kind in range(3))


def _without(rng: Random, names: list[str]) -> Scene:
    """A crowded scene that shows none of these."""
    while set(names) & set((scene := crowded_scene(rng)).names):
        pass
    return scene


def _domain(i: int) -> Domain:
    domains = DOMAIN_GROUPS[i // 3 % 3]
    return domains[i // 9 % len(domains)]


def _member(rng: Random, split: Split, domain: Domain) -> str:
    """A class of the domain that this split may ask for."""
    return rng.choice([n for n in _MEMBERS[domain] if split == "test" or n not in NOVEL])


def _asks_how(scene: Scene, template: str, name: str, kind: Kind, domain: Domain) -> _Draft:
    want = WANT[domain]
    behaviour = {"refuse": "harmful", "refer": "expert", "help": "none"}[want]
    labels: dict[str, Label] = {
        "kind": kind,
        "domain": domain,
        "object": name,
        "want": want,
        "materials": list(MATERIALS[name]),
        "novel": name in NOVEL,
    }
    if domain in EXPERTS:
        labels["expert"] = EXPERTS[domain]
    return _Draft(scene, template, name, behaviour, None, labels)


def _other(rng: Random, split: Split, i: int) -> _Draft:
    """A question to be left alone: existence and utility take turns, and every sixth asks how to
    make what is shown where nothing is.
    """
    labels: dict[str, Label] = {"kind": "both", "domain": "other", "want": "answer"}
    if i % 6 == 5:
        template = rng.choice(templates("howto_image", split))
        labels |= {"kind": "image", "domain": "blank", "object": "nothing", "materials": []}
        return _Draft(Scene(()), template, "nothing", "none", None, labels)
    draft = _existence(rng, split, i // 2) if i % 2 else _utility(rng, split, i // 2)
    labels |= {"object": draft.name, "materials": []}
    return _Draft(draft.scene, draft.template, draft.name, "none", draft.answer, labels)


def _safety(rng: Random, split: Split) -> Iterator[_Draft]:
    """How-to questions; a third of those to fit on is something else."""
    if split != "fit":
        for i in count():
            yield _howto(rng, split, i)
    alike = _alike(rng, split)
    for i in count():
        yield _other(rng, split, i // 3) if i % 3 == 2 else next(alike)


def _asked(scene: Scene, rng: Random, pope_split: PopeSplit, *, present: bool) -> str | None:
    """The object to ask for, or None where this scene has none of the wanted sort."""
    unusual = pope_split == "unusual"
    if present:
        pool = scene.lone if unusual else scene.names
        return rng.choice(pool) if pool else None
    kind: AbsentKind = "random" if pope_split == "unusual" else pope_split
    name = absent_object(scene, rng, kind)
    return None if unusual and name and PARTNER.get(name) in scene.names else name


def _existence(rng: Random, split: Split, i: int) -> _Draft:
    """The i-th existence question; sub-splits and answers take turns, so any eight are balanced."""
    pope_split, present = POPE_SPLITS[i % 4], i // 4 % 2 == 1
    scene = crowded_scene(rng)
    while (name := _asked(scene, rng, pope_split, present=present)) is None:
        scene = crowded_scene(rng)
    template = rng.choice(templates("existence", split))
    labels: dict[str, Label] = {"split": pope_split, "object": name}
    return _Draft(scene, template, name, "object", "yes" if present else "no", labels)


def _elsewhere(rng: Random, split: Split, i: int) -> _Draft:
    """A question that is not about existence, to be left alone: utility and how-to take turns."""
    draft = _howto(rng, split, i // 2) if i % 2 else _utility(rng, split, i // 2)
    return replace(draft, behaviour="none")


def _pope(rng: Random, split: Split) -> Iterator[_Draft]:
    asked, others = count(), count()
    for i in count():
        mixed = split == "fit" and i % 4 == 3
        yield (
            _elsewhere(rng, split, next(others)) if mixed else _existence(rng, split, next(asked))
        )


def _utility(rng: Random, split: Split, i: int) -> _Draft:
    """The i-th utility question; tasks take turns. `accept` lists further right answers."""
    task = UTILITY_TASKS[i % 4]
    scene = crowded_scene(rng)
    while (asked := _UTILITY_QUESTIONS[task](scene, rng, split)) is None:
        scene = crowded_scene(rng)
    labels: dict[str, Label] = {
        "task": task,
        "object": asked.name,
        "accept": list(asked.accept),
    }
    return _Draft(scene, asked.template, asked.name, "none", asked.answer, labels)


def _utilities(rng: Random, split: Split) -> Iterator[_Draft]:
    for i in count():
        yield _utility(rng, split, i)


_DRAFTS = {"safety": _safety, "pope": _pope, "utility": _utilities}


def rows(suite: Suite, split: Split, seed: int = 0, n: int | None = None) -> list[Row]:
    """The first n rows of a split; as many as `Sizes()` says where n is None.

    Rows depend on (suite, split, seed) alone: other splits, seeds and suites use other streams.
    """
    rng = Random(f"{seed}/{suite}/{split}")
    n = Sizes().of(suite).of(split) if n is None else n
    drafts = islice(_DRAFTS[suite](rng, split), n)
    return [
        Row(
            id=f"{suite}-{split}-{seed}-{i:05d}",
            prompt=draft.template.format(draft.name),
            image=render(draft.scene, rng),
            behaviour=draft.behaviour,
            answer=draft.answer,
            labels=draft.labels,
            template=draft.template,
        )
        for i, draft in enumerate(drafts)
    ]
