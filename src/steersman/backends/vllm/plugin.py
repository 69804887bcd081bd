"""The plugin: where vLLM is joined. Inert unless `additional_config` has "steersman".

vLLM calls `register` in every process: the front end, the engine core and each worker. Four
functions of it are wrapped there, and each looks into its own configuration first.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

from vllm.exceptions import VLLMClientError
from vllm.v1.core import kv_cache_utils
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.gpu.model_runner import GPUModelRunner as V2ModelRunner
from vllm.v1.worker.gpu_model_runner import GPUModelRunner as V1ModelRunner
from vllm.v1.worker.worker_base import WorkerBase

from steersman.backends.vllm import op
from steersman.backends.vllm.admission import Admission, completed
from steersman.backends.vllm.features import refuse_engine
from steersman.backends.vllm.keys import extra_keys
from steersman.backends.vllm.wire import KEY, settings_of
from steersman.backends.vllm.worker import Served, serve
from steersman.core.errors import SteersmanError
from steersman.core.serving import RefusedError

DONE = "_steersman_joined"


class NotAdmitted(RefusedError, VLLMClientError):  # pyright: ignore[reportUntypedBaseClass]  # no vLLM here
    """A refusal as vLLM's servers understand it: the client's fault, HTTP 400."""

    def __init__(self, error: RefusedError) -> None:
        super().__init__(error.code, str(error).removeprefix(f"{error.code}: "))


def register() -> None:
    """Joins vLLM in this process, once."""
    op.register()
    _wrap(InputProcessor, "__init__", _admitting)
    _wrap(InputProcessor, "process_inputs", _guarded)
    _wrap_function(kv_cache_utils, "_gen_prompt_embeds_extra_hash_keys", _keyed)
    for runner in (CPUModelRunner, V1ModelRunner, V2ModelRunner):
        _wrap(runner, "load_model", _loaded)
    if not hasattr(WorkerBase, KEY):
        setattr(WorkerBase, KEY, _answer)


def _wrap(owner: type, name: str, around: Callable[..., Any]) -> None:
    inner = owner.__dict__[name]
    if getattr(inner, DONE, False):
        return

    @functools.wraps(inner)
    def joined(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(inner, self, *args, **kwargs)

    setattr(joined, DONE, True)
    setattr(owner, name, joined)


def _wrap_function(module: Any, name: str, around: Callable[..., Any]) -> None:
    inner = getattr(module, name)
    if getattr(inner, DONE, False):
        return
    joined = functools.wraps(inner)(functools.partial(around, inner))
    setattr(joined, DONE, True)
    setattr(module, name, joined)


def _admitting(init: Callable[..., None], self: Any, vllm_config: Any, *a: Any, **k: Any) -> None:
    init(self, vllm_config, *a, **k)
    settings = settings_of(vllm_config.additional_config)
    self._steersman = None
    if settings is not None:
        refuse_engine(vllm_config)
        self._steersman = Admission(settings, vllm_config)


def _guarded(process: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return _admitted(process, self, *args, **kwargs)
    except RefusedError as error:
        raise NotAdmitted(error) from error


def _admitted(
    process: Callable[..., Any],
    self: Any,
    request_id: str,
    prompt: Any,
    params: Any,
    *a: Any,
    **k: Any,
) -> Any:
    admission: Admission | None = self._steersman
    extra = getattr(params, "extra_args", None)
    if admission is None:
        if extra and KEY in extra:
            raise RefusedError(
                "E_NOT_SERVED",
                "This server does not steer. Start it with --additional-config "
                f'\'{{"{KEY}": {{"policies": "DIR"}}}}\'.',
            )
        return process(self, request_id, prompt, params, *a, **k)
    if extra is not None or admission.default is not None:
        admission.asked(extra)  # before anything is computed
    request = process(self, request_id, prompt, params, *a, **k)
    if request.sampling_params is not None:
        completed(admission, params, request)
    return request


def _keyed(inner: Callable[..., list[Any]], request: Any, start: int, end: int) -> list[Any]:
    return [*inner(request, start, end), *extra_keys(request, end)]


def _loaded(load: Callable[..., None], self: Any, *args: Any, **kwargs: Any) -> None:
    settings = settings_of(self.vllm_config.additional_config)
    if settings is None or getattr(self, "_steersman", None) is not None:
        return load(self, *args, **kwargs)
    served = Served.prepared(self.vllm_config, settings)
    load(self, *args, **kwargs)
    self._steersman = serve(self, served)
    return None


def _answer(self: Any, verb: str, *args: Any) -> str:
    """What `collective_rpc("steersman", (verb, ...))` asks a worker; JSON."""
    served: Served | None = getattr(self.model_runner, "_steersman", None)
    try:
        if served is None:
            raise RefusedError("E_NOT_SERVED", "This server does not steer.")
        return json.dumps(served.answer(verb, *args))
    except SteersmanError as error:
        code = getattr(error, "code", type(error).__name__)
        return json.dumps({"error": {"code": code, "message": str(error)}})
