import torch

from packing import SITE, pack, talk
from steersman.gates.always import AlwaysOpen

EXAMPLES = [AlwaysOpen()]


def test_every_token_is_open():
    talks = [talk(0), talk(1)]
    x = pack(talks, [(0, 0, 4), (1, 2, 5)])
    assert x.site == SITE
    assert torch.equal(AlwaysOpen()(x, None), torch.ones(7))
