import torch

from packing import given_vectors, pack, talk
from steersman.synthesizers.given import GivenVector

EXAMPLES = [GivenVector()]


def test_every_token_gets_its_requests_vector():
    vectors = given_vectors(2)
    x = pack([talk(0), talk(1)], [(1, 0, 2), (0, 0, 1)])
    assert torch.equal(GivenVector()(x, vectors), vectors[[1, 1, 0]])
