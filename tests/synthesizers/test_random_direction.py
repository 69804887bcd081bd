import torch

from packing import READ, SITE, D, pack, talk
from steersman.synthesizers.net import SteeringNet
from steersman.synthesizers.random_direction import RandomDirection
from steersman.synthesizers.static import StaticVector

INNER = StaticVector(sites=(SITE,), vectors=torch.arange(D)[None].float())
EXAMPLES = [
    RandomDirection(inner=INNER),
    RandomDirection(
        inner=SteeringNet(
            read=READ, mean=torch.zeros(D), spread=torch.ones(D), encoder=torch.eye(D)[:3],
            bias=torch.zeros(3), decoder=torch.eye(D)[:, :3],
        ),
        seed=2,
    ),
]  # fmt: skip


def test_the_length_stays_and_the_direction_does_not():
    x = pack([talk(0)], [(0, 0, 4)])
    part = EXAMPLES[0]
    made = part(x, part.init(1, x.h))
    wanted = INNER.vectors.norm()
    assert torch.allclose(made.norm(dim=1), wanted.expand(4), rtol=1e-5)
    assert abs(float(torch.cosine_similarity(made[:1], INNER.vectors))) < 0.95


def test_heads_side_by_side_may_be_wider_than_the_model():
    wide = StaticVector(sites=(SITE,), vectors=torch.ones(1, 2 * D + 1))
    part = RandomDirection(inner=wide)
    x = pack([talk(0)], [(0, 0, 4)])
    made = part(x, part.init(1, x.h))
    assert made.shape == (4, 2 * D + 1)
    assert torch.allclose(made.norm(dim=1), wide.vectors.norm().expand(4), rtol=1e-5)


def test_another_seed_is_another_direction():
    x = pack([talk(0)], [(0, 0, 1)])
    first, second = (
        part(x, part.init(1, x.h))
        for part in (RandomDirection(inner=INNER, seed=s) for s in (0, 1))
    )
    assert not torch.allclose(first, second)
