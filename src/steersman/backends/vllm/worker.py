"""The worker's side: builds the board for a model, loads policies, and answers what is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from steersman.backends.vllm import op, runner_v1, runner_v2
from steersman.backends.vllm.board import Board
from steersman.backends.vllm.features import REASONS, refuse_engine, refuse_policy
from steersman.backends.vllm.layers import Decoder, find_decoder
from steersman.backends.vllm.plan import check
from steersman.backends.vllm.wire import KEY, Settings
from steersman.core.errors import nearest
from steersman.core.io import Artifact, check_model
from steersman.core.serving import RefusedError
from steersman.core.shelf import Held, Shelf
from steersman.core.tree import Plain
from steersman.core.types import POINTS, SCOPES, ModelSpec, Site
from steersman.models.on_disk import image_token_of, spec_of


@dataclass(eq=False)
class Served:
    """Policies at work in one worker.

    Attributes:
        sites: that have a tap, as widths are known when the model is.
        spec: of the model; without "weights" where these were not read.
    """

    settings: Settings
    shelf: Shelf
    sites: tuple[Site, ...]
    spec: ModelSpec
    board: Board = field(init=False)

    @classmethod
    def prepared(cls, config: Any, settings: Settings) -> "Served":
        """Reads the policies, before the model is built, so that its graphs are made with them.

        Raises:
            RefusedError: the engine or a policy cannot be served rightly.
            ArtifactError: a policy cannot be read, or was fitted on another model.
        """
        refuse_engine(config)
        spec = spec_of(config.model_config.model, weights=settings.check_weights)
        shelf = Shelf(
            settings.policies, accept=lambda made: _accept(made, spec, settings, config)
        ).open()
        sites = {_site(text) for text in settings.sites}
        for name in shelf.ids:
            policy = shelf[name].artifact.policy
            sites |= {*policy.sites, *(read.site for read in policy.reads)}
        spec.check(tuple(sites), "This server")
        ordered = tuple(sorted(sites, key=lambda site: site.depth))
        if any(s.point == "attn_heads" for s in ordered):
            _refuse_shards(config)
        # Cached graphs are found by this, and a graph without these taps would be a wrong one.
        taps = [str(site) for site in ordered]
        config.additional_config = {**config.additional_config, f"{KEY}_taps": taps}
        ops = config.compilation_config.splitting_ops
        if ops and op.SPLIT not in ops:
            config.compilation_config.splitting_ops = [*ops, op.SPLIT]
        return cls(settings, shelf, ordered, spec)

    @torch.inference_mode()  # as the passes, whose tables it reads and changes
    def answer(self, verb: str, *args: str) -> Plain:
        """What a front end asks."""
        verbs = {
            "trace": lambda name: list(self.board.trace(name)),
            "load": self._load,
            "unload": self._unload,
            "policies": self._policies,
            "capabilities": self._capabilities,
            "edits": self._edits,
        }
        if verb not in verbs:
            raise RefusedError("E_VERB", f"There is no {verb!r}.{nearest(verb, verbs)}")
        return verbs[verb](*args)

    def _load(self, name: str) -> Plain:
        held = self.shelf.read(name)
        self.board.load(held.digest, held.artifact.policy)
        self.shelf.hold(held)
        return {"id": name, "digest": held.digest}

    def _unload(self, name: str) -> Plain:
        self.shelf.unload(name)
        return {"id": name}

    def _policies(self) -> Plain:
        return [{"id": name, "digest": self.shelf[name].digest} for name in self.shelf.ids]

    def _capabilities(self) -> Plain:
        return {
            "engine": "vllm",
            "scopes": list(SCOPES),
            "points": list(POINTS),
            "taps": [str(site) for site in self.sites],
            "max_under_way": self.board.num_rows,
            "weights_compared": "weights" in self.spec.fingerprint,
            "refused": dict(REASONS),
        }

    def _edits(self) -> Plain:
        """What was written since it was asked last, where `record` is set; for tests."""
        found, self.board.edits = self.board.edits or [], []
        return [
            [names.split("\n"), str(site), offset.tolist(), change.tolist()]
            for names, site, offset, change in found
        ]


def serve(runner: Any, served: Served) -> Served:
    """Puts taps into a runner's model and joins the runner.

    Raises:
        RefusedError: the model has no such sites.
    """
    config, model = runner.vllm_config, runner.get_model()
    text = config.model_config.hf_text_config
    decoder = find_decoder(model, served.spec.num_layers)
    dtype = config.model_config.dtype
    scheduler = config.scheduler_config
    widths = {site: _width(decoder, site, text.hidden_size) for site in served.sites}
    served.board = Board(
        widths,
        num_rows=2 * scheduler.max_num_seqs,
        num_tokens=scheduler.max_num_batched_tokens,
        like=torch.empty(0, text.hidden_size, dtype=dtype, device=runner.device),
        fixed=runner.device.type == "cuda",
        image_token=image_token_of(config.model_config.model),
    )
    if served.board.fixed and scheduler.policy == "priority":
        raise RefusedError(
            "E_PRIORITY",
            "Requests that are preempted keep their rows, of which recorded graphs have a fixed "
            "number, and by priority any number can be. Leave --scheduling-policy priority out.",
        )
    if served.settings.record:
        served.board.edits = []
    for name in served.shelf.ids:
        held: Held = served.shelf[name]
        served.board.load(held.digest, held.artifact.policy)
    for site in served.sites:
        if site.point != "head_in":
            tap = op.add_tap(served.board, site)
            act = partial(_call, tap=tap)
            decoder.attach(site, act, ranks=config.parallel_config.tensor_parallel_size)
    seam = runner_v1 if hasattr(runner, "_model_forward") else runner_v2
    seam.join(runner, served.board)
    return served


def _call(hidden: Tensor, residual: Tensor | None, *, tap: int) -> None:
    op.call(hidden, residual, tap)


def _width(decoder: Decoder, site: Site, d_model: int) -> int:
    return d_model if site.point == "head_in" else decoder.width(site, d_model)


def _accept(artifact: Artifact, spec: ModelSpec, settings: Settings, config: Any) -> None:
    check(artifact.policy)
    refuse_policy(config, artifact.policy)
    fitted = artifact.model
    known: Mapping[str, str] = {
        name: value for name, value in fitted.fingerprint.items() if name in spec.fingerprint
    }
    check_model(replace(fitted, fingerprint=known), spec, "A policy", force=settings.force)


def _site(text: str) -> Site:
    point, _, layer = text.rstrip("]").partition("[")
    if point not in POINTS or not layer.isdigit():
        raise RefusedError("E_SITE", f'There is no site {text!r}. Write it as "resid_post[12]".')
    return Site(int(layer), point)


def _refuse_shards(config: Any) -> None:
    if config.parallel_config.tensor_parallel_size > 1:
        raise RefusedError(
            "E_TENSOR_PARALLEL_HEADS",
            "A policy writes attn_heads, and with tensor parallelism each rank computes some of "
            "the heads only. Use a policy that writes attn_out or resid_post.",
        )
