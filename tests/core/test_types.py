"""Scopes and reads against lists written by hand; probes; requests that cannot be used."""

import pytest
import torch

from packing import READ, SITE, pack, talk
from steersman.core.errors import RecipeError
from steersman.core.ops import latch, per_request_sum, unit
from steersman.core.requests import Request
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import SCOPES, Modality, ModelSpec, Prompt, Read, Scope, Site, Tokens
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add
from steersman.synthesizers.net import SteeringNet
from steersman.synthesizers.random_direction import RandomDirection
from steersman.synthesizers.static import StaticVector


def tokens(offset, modality=None, suffix=0):
    n = len(offset)
    return Tokens(
        site=SITE,
        h=torch.zeros(n, 2),
        request=torch.zeros(n, dtype=torch.long),
        position=torch.arange(n),
        offset=torch.tensor(offset),
        modality=torch.tensor(modality or [0] * n),
        suffix=suffix,
    )


OFFSETS, MODALITY = [-4, -3, -2, -1, 0, 1], [0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("all", "111111"),
        ("prompt", "111100"),
        ("last", "000100"),
        ("last_and_generated", "000111"),
        ("generated", "000011"),
        ("text", "100111"),
        ("image", "011000"),
    ],
)
def test_a_scope_names_these_tokens(name, wanted):
    mask = Scope.named(name).mask(tokens(OFFSETS, MODALITY))
    assert mask.tolist() == [digit == "1" for digit in wanted]
    assert getattr(Scope, name.upper()) is Scope.named(name)


def test_all_named_scopes_are_tested_above_and_others_can_be_made():
    assert len(SCOPES) == 7
    x = tokens(OFFSETS, MODALITY)
    assert Scope(start=-3, stop=1).mask(x).tolist() == [False, True, True, True, True, False]
    image = Scope(start=-2, modality="image").mask(x)
    assert image.tolist() == [False, False, True, False, False, False]
    with pytest.raises(RecipeError, match="no scope 'last_one'.*last_and_generated"):
        Scope.named("last_one")
    assert [int(m) for m in Modality] == [0, 1]


@pytest.mark.parametrize(
    ("read", "suffix", "wanted"),
    [
        (Read(SITE), 0, "000100"),
        (Read(SITE), 2, "000100"),
        (Read(SITE), None, "000100"),
        (Read(SITE, offset=-2), 0, "001000"),
        (Read(SITE, offset=1), 0, "000001"),
        (Read(SITE, generation_prompt=False), 0, "000100"),
        (Read(SITE, generation_prompt=False), 2, "010000"),
        (Read(SITE, offset=-2, generation_prompt=False), 1, "010000"),
        (Read(SITE, generation_prompt=False), None, "000000"),
    ],
)
def test_a_read_names_this_token(read, suffix, wanted):
    here = read.here(tokens(OFFSETS, suffix=suffix))
    assert here.tolist() == [digit == "1" for digit in wanted]


def steerer(read, sites, scope):
    inner = StaticVector(sites=sites, vectors=torch.ones(len(sites), 2))
    made = RandomDirection(inner=inner)
    if read is not None:
        made = SteeringNet(
            read=read, mean=torch.zeros(2), spread=torch.ones(2), encoder=torch.ones(1, 2),
            bias=torch.zeros(1), decoder=torch.ones(2, 1),
        )  # fmt: skip
    return Steerer(sites=sites, gate=AlwaysOpen(), synthesizer=made, operator=Add(), scope=scope)


LAST = Scope.LAST_AND_GENERATED
USER = Read(Site(1), generation_prompt=False)


@pytest.mark.parametrize(
    ("read", "sites", "scope", "suffix", "probe"),
    [
        (None, (Site(1),), Scope.ALL, 0, False),
        (Read(Site(1)), (Site(1),), LAST, 0, False),
        (Read(Site(1)), (Site(2),), LAST, 0, False),
        (Read(Site(1)), (Site(0),), LAST, 0, True),
        (Read(Site(1)), (Site(2), Site(0)), LAST, 0, True),
        (Read(Site(1)), (Site(1, "resid_pre"),), LAST, 0, True),
        (Read(Site(1)), (Site(1, "mlp_out"),), LAST, 0, True),
        (Read(Site(1, "attn_out")), (Site(1, "mlp_out"),), LAST, 0, False),
        (Read(Site(2)), (Site(2, "head_in"),), LAST, 0, False),
        (Read(Site(1)), (Site(1),), Scope.ALL, 0, True),
        (Read(Site(1)), (Site(1),), Scope.PROMPT, 0, True),
        (Read(Site(1)), (Site(1),), Scope.IMAGE, 0, True),
        (Read(Site(1)), (Site(1),), Scope(start=-5), 0, True),
        (Read(Site(1)), (Site(1),), Scope.GENERATED, 0, False),
        (Read(Site(1), offset=-5), (Site(1),), Scope(start=-5), 0, False),
        (Read(Site(1), offset=0), (Site(1),), LAST, 0, True),
        (USER, (Site(1),), LAST, 3, False),
        (USER, (Site(1),), Scope(start=-4), 3, False),
        (USER, (Site(1),), Scope(start=-5), 3, True),
        (USER, (Site(2),), LAST, None, True),
    ],
)
def test_when_a_pass_of_its_own_must_read_first(read, sites, scope, suffix, probe):
    assert steerer(read, sites, scope).needs_probe(suffix) is probe


def test_latch_takes_the_marked_token_of_each_request():
    talks = [talk(0), talk(1), talk(2)]
    x = pack(talks, [(2, 0, 4), (0, 2, 5), (1, 0, 3)])  # request 1 has no last prompt token here
    rows, seen = latch(x.h, READ.here(x), x.request, 3)
    assert seen.tolist() == [True, False, True]
    assert torch.equal(rows[0], talks[0].states[3]) and torch.equal(rows[2], talks[2].states[3])
    assert torch.equal(rows[1], torch.zeros_like(rows[1]))


def test_latch_without_a_marked_token_sees_nothing():
    x = pack([talk(0), talk(1)], [(0, 4, 6), (1, 5, 7)])
    rows, seen = latch(x.h, READ.here(x), x.request, 2)
    assert not bool(seen.any()) and not bool(rows.any())


def test_sums_and_unit_rows():
    sums = per_request_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 0, 2]), 4)
    assert sums.tolist() == [2.0, 0.0, 5.0, 0.0]
    rows = unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert torch.allclose(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize("site", [Site(-1), Site(3), Site(1, "head_in")], ids=str)
def test_sites_outside_the_model_are_refused(site):
    with pytest.raises(RecipeError, match=rf"The test needs {site.point}\[{site.layer}\]"):
        ModelSpec("m", "M", 8, 3).check([Site(0), site], "The test")
    ModelSpec("m", "M", 8, 3).check([Site(2, "head_in"), Site(0)], "The test")


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strength": NAN}, "strength is nan"),
        ({"strength": INF}, "strength is inf"),
        ({"strength": -INF}, "finite"),
        ({"temperature": -0.1}, "temperature of 0 or more"),
        ({"temperature": NAN}, "temperature nan"),
        ({"temperature": INF}, "temperature inf"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"top_p": 1.1}, "top_p 1.1"),
        ({"top_p": NAN}, "top_p nan"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"vectors": {"s": torch.ones(2)}}, "no policy that takes them"),
    ],
)
def test_requests_that_cannot_be_used_are_refused(fields, message):
    with pytest.raises(RecipeError, match=message):
        Request(Prompt("a"), **fields)


def test_a_vector_with_nan_is_refused():
    policy = Policy(steerers={"s": steerer(None, (SITE,), LAST)})
    with pytest.raises(RecipeError, match="vector for 's' holds NaN"):
        Request(Prompt("a"), policy, vectors={"s": torch.tensor([0.0, NAN])})


def test_reading_again_marks_every_so_many_generated_tokens():
    one = talk(0, 4, 9)
    x = pack([one], [(0, 0, 13)])
    seen = x.offset[Read(READ.site, every=3).here(x)].tolist()
    assert seen == [-1, 2, 5, 8]
    assert x.offset[READ.here(x)].tolist() == [-1]
    with pytest.raises(RecipeError, match="every is -1"):
        Read(READ.site, every=-1)
