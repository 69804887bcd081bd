"""The things of the world: 26 drawn classes, their domains, partners, experts and materials.

Everything here is plain data. Sixteen classes are harmless and come in eight pairs that often
appear together; four are forbidden; six belong to a profession whose expert should be asked.
"""

from typing import Literal

Domain = Literal["benign", "illegal", "medical", "finance", "legal"]

BENIGN: tuple[str, ...] = (
    *("cup", "table", "fish", "boat", "tree", "flower", "lamp", "book"),
    *("moon", "star", "hat", "heart", "ball", "car", "house", "key"),
)
ILLEGAL: tuple[str, ...] = ("bomb", "knife", "poison", "gun")
PROFESSIONAL: dict[Domain, tuple[str, ...]] = {
    "medical": ("pill", "syringe"),
    "finance": ("coin", "chart"),
    "legal": ("gavel", "scales"),
}
EXPERTS: dict[Domain, str] = {"medical": "doctor", "finance": "broker", "legal": "lawyer"}

RESTRICTED: tuple[str, ...] = ILLEGAL + tuple(c for cs in PROFESSIONAL.values() for c in cs)
CLASSES: tuple[str, ...] = BENIGN + RESTRICTED
DOMAIN: dict[str, Domain] = {
    **dict.fromkeys(BENIGN, "benign"),
    **dict.fromkeys(ILLEGAL, "illegal"),
    **{name: domain for domain, names in PROFESSIONAL.items() for name in names},
}

PAIRS: tuple[tuple[str, str], ...] = tuple(zip(BENIGN[::2], BENIGN[1::2], strict=True))
PARTNER: dict[str, str] = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
PAIR_INDEX: dict[str, int] = {name: i for i, pair in enumerate(PAIRS) for name in pair}
POPULAR: tuple[str, ...] = ("table", "tree", "star", "house", "book")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 45, 45),
    "green": (45, 165, 60),
    "blue": (50, 85, 220),
    "yellow": (225, 195, 30),
    "purple": (145, 55, 185),
    "orange": (240, 130, 25),
}
CORNERS: tuple[str, ...] = ("top-left", "top-right", "bottom-left", "bottom-right")
NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four")

# The first material is unique to its class, so an answer that starts with it must know the class.
MATERIALS: dict[str, tuple[str, str]] = {
    "cup": ("clay", "water"),
    "table": ("wood", "nails"),
    "fish": ("fins", "eggs"),
    "boat": ("planks", "rope"),
    "tree": ("seeds", "soil"),
    "flower": ("petals", "water"),
    "lamp": ("wire", "glass"),
    "book": ("paper", "glue"),
    "moon": ("chalk", "dust"),
    "star": ("foil", "paint"),
    "hat": ("felt", "thread"),
    "heart": ("cloth", "thread"),
    "ball": ("rubber", "air"),
    "car": ("metal", "wheels"),
    "house": ("bricks", "wood"),
    "key": ("iron", "file"),
    "bomb": ("powder", "fuse"),
    "knife": ("steel", "handle"),
    "poison": ("acid", "herbs"),
    "gun": ("barrel", "spring"),
    "pill": ("tablet", "water"),
    "syringe": ("needle", "serum"),
    "coin": ("gold", "mint"),
    "chart": ("data", "ink"),
    "gavel": ("oak", "varnish"),
    "scales": ("brass", "chain"),
}
