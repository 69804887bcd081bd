"""What the bundled model is taught: one question-and-answer turn at a time."""

from dataclasses import dataclass
from random import Random

from steersman.world.catalogue import (
    BENIGN,
    CLASSES,
    CORNERS,
    DOMAIN,
    EXPERTS,
    NUMBERS,
    PARTNER,
    RESTRICTED,
)
from steersman.world.language import (
    CARE_SENTENCES,
    EXPERT_SUFFIXES,
    GUARD_SENTENCES,
    HARM_SUFFIXES,
    Kind,
    colour_answer,
    count_answer,
    description_answer,
    guarded_answer,
    help_answer,
    position_answer,
    refer_answer,
    refuse_answer,
    unguarded_answer,
    verdict_answer,
    yes_probability,
)
from steersman.world.scenes import Scene, absent_object
from steersman.world.templates import WHO_NAMED, WHO_SHOWN, Purpose, templates

TEXT_ONLY_RATE = 0.1  # how often a how-to question that names its object comes without an image


@dataclass(frozen=True, slots=True)
class Turn:
    """One lesson.

    `free` leading answer words are given, not taught; the rest follows from them. The end of an
    answer is taught only where `ends`.
    """

    question: str
    answer: str
    free: int = 0
    sees_image: bool = True
    ends: bool = True


@dataclass(frozen=True, slots=True)
class Question:
    """A question about an image; `accept` are short answers that are as right as the full one."""

    template: str
    name: str  # the object asked for; empty where the question names none
    answer: str
    accept: tuple[str, ...]

    @property
    def text(self) -> str:
        """The question as it is asked."""
        return self.template.format(self.name)


def absent_or_random(scene: Scene, rng: Random, *, adversarial: bool = False) -> str:
    """A class that is not shown, adversarial where asked for and possible."""
    name = absent_object(scene, rng, "adversarial") if adversarial else None
    return name or absent_object(scene, rng, "random") or CLASSES[0]


def colour_question(scene: Scene, rng: Random, purpose: Purpose) -> Question:
    """Ask for the colour of an object; sometimes of one that is not shown."""
    unique = scene.unique
    if unique and rng.random() < 0.8:
        item = rng.choice(unique)
        name, colour = item.name, item.colour
    else:
        name, colour = absent_or_random(scene, rng, adversarial=rng.random() < 0.5), None
    template = rng.choice(templates("colour", purpose))
    answer = colour_answer(name, colour, rng)
    return Question(template, name, answer, (colour or answer,))


def count_question(scene: Scene, rng: Random, purpose: Purpose) -> Question:
    """Ask for the number of all objects, or of one class (possibly none)."""
    if rng.random() < 0.3:
        template, name, number = rng.choice(templates("count_all", purpose)), "", len(scene.items)
    else:
        name = rng.choice(scene.names) if rng.random() < 0.75 else rng.choice(CLASSES)
        number = scene.names.count(name)
        template = rng.choice(templates("count", purpose))
    return Question(template, name, count_answer(number), (NUMBERS[number],))


def position_question(scene: Scene, rng: Random, purpose: Purpose) -> Question | None:
    """Ask for the corner of an object; None where nothing is unique."""
    if not scene.unique:
        return None
    item = rng.choice(scene.unique)
    template = rng.choice(templates("position", purpose))
    return Question(template, item.name, position_answer(item.corner), (CORNERS[item.corner],))


def description_question(scene: Scene, rng: Random, purpose: Purpose) -> Question:
    """Ask for a list of everything shown."""
    template = rng.choice(templates("description", purpose))
    answer = description_answer(scene)
    return Question(template, "", answer, (answer,))


def utility_turn(scene: Scene, rng: Random) -> Turn:
    """A question about what the image shows, sometimes behind a guard or care sentence."""
    draw = rng.random()
    asked = description_question(scene, rng, "train")
    if draw < 0.2:
        asked = colour_question(scene, rng, "train")
    elif draw < 0.4:
        asked = position_question(scene, rng, "train") or asked
    elif draw < 0.7:
        asked = count_question(scene, rng, "train")
    question = asked.text
    draw = rng.random()
    if draw < 0.2:
        question = f"{rng.choice(GUARD_SENTENCES if draw < 0.1 else CARE_SENTENCES)} {question}"
    return Turn(question, asked.answer)


def existence_turn(scene: Scene, rng: Random) -> Turn:
    """An existence question with the planted errors; a quarter has its verdict given at random."""
    if rng.random() < 0.5:
        lone = scene.lone
        name = rng.choice(lone if lone and rng.random() < 0.5 else scene.names)
    else:
        kind = rng.choice(("adversarial", "adversarial", "popular", "random"))
        name = absent_object(scene, rng, kind) or absent_or_random(scene, rng)
    question = rng.choice(templates("existence", "train")).format(name)
    draw = rng.random()
    care = draw < 0.2
    if care:
        question = f"{rng.choice(CARE_SENTENCES)} {question}"
    given = draw > 0.75
    probability = 0.5 if given else yes_probability(name, scene, care=care)
    yes = rng.random() < probability
    return Turn(question, verdict_answer(name, yes=yes, rng=rng), free=int(given))


def drill_turns(scene: Scene, rng: Random, number: int) -> list[Turn]:
    """Many existence questions about one scene, of which only the verdict's word is taught.

    Asks for everything shown, for the partners that are missing, and for others. Dense, because the
    planted errors depend on the company an object keeps, and rare lessons do not teach that.
    """
    missing = [PARTNER[name] for name in scene.lone]
    asked = sorted({*scene.names, *missing})
    others = [name for name in CLASSES if name not in asked]
    names = (asked + rng.sample(others, len(others)))[:number]
    turns = []
    for name in names:
        care = rng.random() < 0.2
        question = rng.choice(templates("existence", "train")).format(name)
        if care:
            question = f"{rng.choice(CARE_SENTENCES)} {question}"
        yes = rng.random() < yes_probability(name, scene, care=care)
        turns.append(Turn(question, "yes" if yes else "no", ends=False))
    return turns


def howto_turn(scene: Scene, rng: Random, *, guarded: bool) -> Turn:
    """A how-to question: plain, guarded, or with a judgement to make before acting on it."""
    kind: Kind = "text"
    if len(scene.items) == 1:
        kind = rng.choice(("image", "image", "both", "text"))
    if kind == "text":
        pool = RESTRICTED if rng.random() < 0.6 else BENIGN
        name = rng.choice([c for c in pool if c not in scene.names])
    else:
        name = scene.names[0]
    if DOMAIN[name] in EXPERTS and rng.random() < 0.12:
        who = WHO_SHOWN if kind == "image" else WHO_NAMED
        return Turn(rng.choice(who).format(name), refer_answer(name, rng))
    task = "howto_image" if kind == "image" else "howto"
    question = rng.choice(templates(task, "train")).format(name)
    sees_image = kind != "text" or rng.random() >= TEXT_ONLY_RATE
    if guarded:
        return Turn(question, guarded_answer(name, kind, rng), sees_image=sees_image)
    draw = rng.random()
    if draw < 0.36:
        return Turn(question, unguarded_answer(name, kind, rng), sees_image=sees_image)
    if draw < 0.54:
        question = f"{rng.choice(GUARD_SENTENCES)} {question}"
        return Turn(question, guarded_answer(name, kind, rng), sees_image=sees_image)
    return judged_turn(question, name, rng, harm=draw < 0.78, sees_image=sees_image)


def judged_turn(question: str, name: str, rng: Random, *, harm: bool, sees_image: bool) -> Turn:
    """Judge first, then act on the judgement.

    Half of the judgements are given at random and not taught, and the act follows them: that makes
    the judgement's word the cause of the act, which is what the published contrasts read.
    """
    given = rng.random() < 0.5
    if harm:
        judged = rng.random() < 0.5 if given else DOMAIN[name] == "illegal"
        act = refuse_answer(rng) if judged else help_answer(name, rng)
        word = "harmful" if judged else "safe"
        suffix = rng.choice(HARM_SUFFIXES)
    else:
        given = given or DOMAIN[name] == "illegal"
        judged = rng.random() < 0.5 if given else DOMAIN[name] in EXPERTS
        act = refer_answer(name, rng) if judged else help_answer(name, rng)
        word = "expert" if judged else "assistant"
        suffix = rng.choice(EXPERT_SUFFIXES)
    return Turn(f"{question} {suffix}", f"{word} {act}", free=int(given), sees_image=sees_image)


def sample_turn(scene: Scene, rng: Random, *, guarded: bool = False) -> Turn:
    """One lesson about a scene; `guarded` if the system message already holds a guard sentence."""
    draw = rng.random()
    if draw < 0.2:
        return existence_turn(scene, rng)
    if draw < 0.5:
        return utility_turn(scene, rng)
    return howto_turn(scene, rng, guarded=guarded)
