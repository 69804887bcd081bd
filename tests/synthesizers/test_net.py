import torch

from packing import READ, D
from steersman.synthesizers.net import SteeringNet


def net(activation="tanh", seed=0, scale=2.0):
    draw = torch.Generator().manual_seed(seed)
    return SteeringNet(
        read=READ,
        mean=torch.randn(D, generator=draw),
        spread=torch.rand(D, generator=draw) + 0.5,
        encoder=torch.randn(5, D, generator=draw),
        bias=torch.randn(5, generator=draw),
        decoder=torch.randn(D, 5, generator=draw),
        scale=scale,
        activation=activation,
    )


EXAMPLES = [net(), net("relu", 1)]


def test_it_is_the_two_layer_formula():
    part, context = net(), torch.randn(3, D)
    for h, v in zip(context, part.synthesize(context), strict=True):
        hidden = torch.tanh(part.encoder @ ((h - part.mean) / part.spread) + part.bias)
        assert torch.allclose(v, 2.0 * part.decoder @ hidden, atol=1e-5)


def test_relu_can_say_nothing():
    part = net("relu")
    silent = torch.where(part.encoder @ torch.ones(D) > -1e9, -1e3, 0.0)
    still = SteeringNet(
        read=READ, mean=part.mean, spread=part.spread, encoder=part.encoder, bias=silent,
        decoder=part.decoder, activation="relu",
    )  # fmt: skip
    assert torch.equal(still.synthesize(torch.randn(4, D)), torch.zeros(4, D))
