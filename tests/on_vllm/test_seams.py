"""The internal names of vLLM that the plugin relies on, compared with the installed version.

V1 is run for real by the other tests here. V2 needs Triton; its seam is joined to a runner of our
own that has the methods, the batch and the graph descriptions of vLLM's.
"""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm.config.compilation import CUDAGraphMode
from vllm.v1.core import kv_cache_utils
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.gpu import model_runner as v2
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor, ModelCudaGraphManager
from vllm.v1.worker.gpu.states import RequestState
from vllm.v1.worker.worker_base import WorkerBase

from steersman.backends.vllm import plugin, runner_v2
from steersman.backends.vllm.board import Board
from steersman.backends.vllm.wire import KEY, Order
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Site
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector

V2 = v2.GPUModelRunner
WIDTH, SITE = 4, Site(0)


def parameters(function):
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (CPUModelRunner._prepare_inputs, ["self", "scheduler_output", "num_scheduled_tokens"]),
        (CPUModelRunner._on_request_state_removed, ["self", "req_id", "req_state"]),
        (V2.add_requests, ["self", "scheduler_output"]),
        (V2.finish_requests, ["self", "scheduler_output"]),
        (V2.gather_batch_req_state, ["self", "scheduler_output", "dummy_run"]),
        (ModelCudaGraphManager.run_fullgraph, ["self", "desc"]),
        (
            kv_cache_utils._gen_prompt_embeds_extra_hash_keys,
            ["request", "start_token_idx", "end_token_idx"],
        ),
    ],
)
def test_a_function_that_is_joined_takes_what_it_did(function, expected):
    assert parameters(inspect.unwrap(function)) in (expected, ["inner", *expected])


def test_methods_that_are_joined_are_there():
    assert "force_eager" in parameters(CPUModelRunner._determine_batch_execution_and_padding)
    assert {"num_reqs", "num_tokens"} <= set(parameters(ModelCudaGraphManager.dispatch))
    process = parameters(inspect.unwrap(InputProcessor.process_inputs))
    assert process[:4] == ["self", "request_id", "prompt", "params"]
    plugin.register()
    plugin.register()  # vLLM may call it more than once
    assert hasattr(CPUModelRunner, "_model_forward") and hasattr(WorkerBase, KEY)
    inner = inspect.unwrap(InputProcessor.process_inputs)
    assert InputProcessor.process_inputs.__wrapped__ is inner
    assert not hasattr(V2, "_model_forward"), "the runners are told apart by it"


def test_block_keys_are_found_where_vllm_looks_for_them():
    source = inspect.getsource(kv_cache_utils.generate_block_hash_extra_keys)
    assert "_gen_prompt_embeds_extra_hash_keys(" in source


def test_v2_tells_who_is_in_a_pass_before_it_chooses_a_graph():
    source = inspect.getsource(V2.execute_model)
    order = ["gather_batch_req_state(", "dispatch_cg_and_sync_dp(", "run_fullgraph("]
    places = [source.index(name) for name in order]
    assert places == sorted(places) and places[-1] < source.index("self.model(**model_inputs)")
    fields = {"req_ids", "num_scheduled_tokens", "idx_mapping_np"}
    assert fields <= set(v2.BatchReqState._fields)
    assert "num_computed_tokens_np" in inspect.getsource(RequestState.__init__)
    sample = inspect.getsource(V2.sample)
    assert "self.model.compute_logits(sample_hidden_states)" in sample


def test_v2_frees_requests_that_are_preempted_with_those_that_are_over():
    source = inspect.getsource(V2.finish_requests)
    assert "preempted_req_ids" in source and "finished_req_ids" in source


class Graphs:
    """A graph manager with vLLM's descriptions: everything small has a full graph."""

    use_breakable_cg = False

    def __init__(self):
        self.replays = 0

    def dispatch(self, num_reqs, num_tokens, *_, **__):
        full = num_tokens <= num_reqs
        mode = CUDAGraphMode.FULL if full else CUDAGraphMode.PIECEWISE
        return BatchExecutionDescriptor(cg_mode=mode, num_tokens=8, num_reqs=num_reqs)

    def run_fullgraph(self, desc):
        self.replays += 1
        return torch.zeros(desc.num_tokens, WIDTH)


class Model(torch.nn.Module):
    """One block whose output has a tap."""

    def __init__(self):
        super().__init__()
        self.board = None

    def forward(self, hidden):
        made = hidden.clone()
        self.board.tap(SITE, made, None)
        return made

    def compute_logits(self, states):
        return states


class Runner:
    """As much of the V2 runner as the seam joins."""

    def __init__(self, policy):
        self.batch_sharder = None
        self.model, self.cudagraph_manager = Model(), Graphs()
        self.req_states = SimpleNamespace(num_computed_tokens_np=np.zeros(8, dtype=np.int32))
        self.index = {}
        self.board = self.model.board = Board(
            {SITE: WIDTH}, num_rows=4, num_tokens=16, like=torch.empty(0, WIDTH)
        )
        self.board.load("digest", policy)
        runner_v2.join(self, self.board)

    def add_requests(self, scheduler_output):
        for new in scheduler_output.scheduled_new_reqs:
            self.index[new.req_id] = len(self.index)

    def finish_requests(self, scheduler_output):
        pass

    def gather_batch_req_state(self, scheduler_output, dummy_run):
        if dummy_run:
            return None, 1
        names = list(scheduler_output.num_scheduled_tokens)
        nums = np.array(list(scheduler_output.num_scheduled_tokens.values()), dtype=np.int32)
        index = np.array([self.index[name] for name in names])
        batch = v2.BatchReqState(
            **{
                **dict.fromkeys(v2.BatchReqState._fields),
                "req_ids": names,
                "num_scheduled_tokens": nums,
                "num_tokens": int(nums.sum()),
                "idx_mapping_np": index,
            }
        )
        return batch, None

    def step(self, hidden, *, new=(), finished=(), preempted=(), **nums):
        """A pass in the order of `execute_model`."""
        output = SimpleNamespace(
            scheduled_new_reqs=list(new),
            finished_req_ids=set(finished),
            preempted_req_ids=set(preempted),
            num_scheduled_tokens=nums,
        )
        self.finish_requests(output)
        self.add_requests(output)
        batch, _ = self.gather_batch_req_state(output, False)
        graph = self.cudagraph_manager.dispatch(len(nums), batch.num_tokens)
        if graph.cg_mode == CUDAGraphMode.FULL:
            made = self.cudagraph_manager.run_fullgraph(graph)
        else:
            made = self.model(hidden)
        for name, num in nums.items():
            self.req_states.num_computed_tokens_np[self.index[name]] += num
        return made, graph


def new(name, prompt, order=None):
    extra = None if order is None else {KEY: order.as_dict()}
    params = SimpleNamespace(extra_args=extra)
    return SimpleNamespace(req_id=name, prompt_token_ids=prompt, sampling_params=params)


ORDER = Order("p", "digest", 2.0, None, False, "t", 0, "", -1, -1)


@pytest.fixture
def runner():
    vector = StaticVector(sites=(SITE,), vectors=torch.ones(1, WIDTH))
    steerer = Steerer(sites=(SITE,), gate=AlwaysOpen(), synthesizer=vector, operator=Add())
    return Runner(Policy(steerers={"s": steerer}))


def test_v2_steers_the_rows_that_asked_in_the_order_of_the_batch(runner):
    requests = [new("a", [1, 2, 3]), new("b", [1, 2], ORDER)]
    made, graph = runner.step(torch.zeros(5, WIDTH), new=requests, a=3, b=2)
    assert graph.cg_mode == CUDAGraphMode.PIECEWISE
    assert torch.equal(made, torch.tensor([0.0, 0, 0, 0, 2])[:, None].expand(5, WIDTH))


def test_v2_leaves_dummy_passes_alone(runner):
    runner.step(torch.zeros(2, WIDTH), new=[new("b", [1, 2], ORDER)], b=2)
    runner.gather_batch_req_state(SimpleNamespace(num_scheduled_tokens={}), True)
    assert torch.equal(runner.model(torch.zeros(2, WIDTH)), torch.zeros(2, WIDTH))
    assert runner.board.rows["b"].scope == {}


def test_v2_replays_full_graphs_only_where_nothing_must_be_read(runner):
    runner.step(torch.zeros(2, WIDTH), new=[new("b", [1, 2], ORDER)], b=2)
    _, graph = runner.step(torch.zeros(1, WIDTH), b=1)
    assert graph.cg_mode == CUDAGraphMode.FULL and runner.cudagraph_manager.replays == 1
    runner.board._pass.early = {SITE: ()}  # somebody reads
    runner.board.begun = True
    description = runner.cudagraph_manager.dispatch(1, 1)
    assert description.cg_mode == CUDAGraphMode.NONE and description.num_tokens == 1


def test_v2_keeps_what_was_decided_of_requests_that_are_preempted(runner):
    runner.step(torch.zeros(2, WIDTH), new=[new("b", [1, 2], ORDER)], b=2)
    row = runner.board.rows["b"]
    again = new("b", [1, 2], ORDER)
    runner.req_states.num_computed_tokens_np[:] = 0
    runner.step(torch.zeros(2, WIDTH), preempted=["b"], new=[again], b=2)
    assert runner.board.rows["b"] is row
    runner.step(torch.zeros(1, WIDTH), finished=["b"], new=[new("c", [1])], c=1)
    assert not runner.board.rows


def test_v2_refuses_what_would_hide_rows_from_the_head(runner):
    runner.batch_sharder = object()
    head = Board({Site(0, "head_in"): WIDTH}, num_rows=1, num_tokens=1, like=torch.empty(0, WIDTH))
    with pytest.raises(ValueError, match="E_BATCH_SHARDED"):
        runner_v2.join(runner, head)
