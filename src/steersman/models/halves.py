"""Which modules make what a block adds to the residual stream, traced through one forward pass.

A name does not tell it: `post_attention_layernorm` is behind the attention in OLMo 2 and before the
MLP in Llama, Granite scales a half before it is added, and BLOOM's attention returns the stream and
itself together. So a short pass is watched: the output of a block is taken apart along its sums
until the block's input is reached, and each addend is looked up among the outputs of its modules.
Where an addend is not a module's own output, there is no tap, and the reason is kept.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from steersman.models.offloaded import runs_on

ATTENTION = "attention"  # in the name of a class
MLP = ("mlp", "moe", "ffn", "feed_forward", "feedforward", "experts")  # of a class or a child
SUM, COPY = "a sum", "a copy"
SUMS = ("add", "add_", "__add__", "__radd__", "__iadd__")
COPIES = (
    *("dropout", "dropout_", "to", "float", "half", "bfloat16", "type", "type_as"),
    *("clone", "contiguous", "view", "reshape"),
)
FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


@dataclass(frozen=True)
class Addend:
    """One tensor that a block adds to the residual stream.

    Attributes:
        path: the module inside the block whose output it is; None if it is no module's.
        role: "attention", "mlp", or "" for what is neither.
        heads: the module that projects the attention's heads, if it is one.
        told: what it is, in words.
    """

    path: str | None
    role: str
    heads: str | None
    told: str


@dataclass(frozen=True)
class Halves:
    """What a block adds to the stream.

    Attributes:
        reason: why it is not known what it adds.
        stream: why its input and output cannot be taken for the stream, if they cannot.
    """

    addends: tuple[Addend, ...] = ()
    reason: str = ""
    stream: str = ""


@dataclass(frozen=True)
class Trace:
    """What one pass through a decoder told of each block, and the norm that ran last."""

    halves: tuple[Halves, ...]
    final_norm: nn.Module | None = None


@dataclass(eq=False)
class _Node:
    """A tensor at one moment; in-place edits make a new one."""

    made_by: str
    parents: tuple["_Node", ...] = ()
    shape: tuple[int, ...] = ()
    modules: list[str] = field(default_factory=list)  # whose output it is, innermost first


class _Watch(TorchFunctionMode):
    """Keeps how every tensor of one block was made, while that block runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[int] = Counter()  # of modules, by id
        self.enter(None)

    def enter(self, block: nn.Module | None) -> None:
        self.block = block
        self.nodes: dict[int, _Node] = {}
        self.given: dict[str, _Node] = {}
        self.kept: list[Tensor] = []  # an id must not be used twice

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if self.block is not None:
            self._note(getattr(func, "__name__", "?"), args, kwargs or {}, made)
        return made

    def _note(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], made: Any) -> None:
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if name == "__setitem__":
            made = first
        if not isinstance(made, Tensor):
            return
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        edited = name.startswith(("__i", "__set")) or (name[-1:] == "_" and name[-2:] != "__")
        if made is first and not edited and not {"out", "inplace"} & set(kwargs):
            return
        parents = tuple(self.node(t) for t in tensors)
        sums = name in SUMS and len(tensors) == 2 and not kwargs
        if sums and all(t.shape == made.shape for t in tensors):
            kind = SUM
        elif name in COPIES and first is not None and first.shape[-1:] == made.shape[-1:]:
            kind, parents = COPY, parents[:1]
        else:
            kind = name.strip("_")
        self.nodes[id(made)] = _Node(kind, parents, tuple(made.shape))
        self.kept.append(made)

    def node(self, tensor: Tensor) -> _Node:
        """What is known of a tensor now."""
        if id(tensor) not in self.nodes:
            self.nodes[id(tensor)] = _Node("something unseen", shape=tuple(tensor.shape))
            self.kept.append(tensor)
        return self.nodes[id(tensor)]


def trace(decoder: nn.Module, layers: Sequence[nn.Module], norms: Sequence[nn.Module]) -> Trace:
    """Runs three tokens through `decoder` and watches these blocks, and norms that may be last."""
    device = runs_on(decoder)
    if device is None:
        return Trace((Halves(reason="the model has no weights yet"),) * len(layers))
    watch, found, failed, order = _Watch(), dict[int, Halves](), "", list[nn.Module]()
    with ExitStack() as stack:
        for i, block in enumerate(layers):
            stack.enter_context(_watched(watch, block, i, found))
        for module in (*layers, *norms):
            hook = module.register_forward_hook(lambda module, *_: order.append(module))
            stack.callback(hook.remove)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.no_grad())
        stack.enter_context(watch)
        try:
            decoder(input_ids=torch.tensor([[3, 2, 1]], device=device), use_cache=False)
        except FAILURES as error:
            failed = f"a pass over three tokens failed ({type(error).__name__}: {error})"
    unknown = Halves(reason=failed or "a pass over three tokens did not run it")
    halves = [_called_once(watch, block, found.get(i, unknown)) for i, block in enumerate(layers)]
    for i, block in enumerate(layers):
        if (times := sum(module is block for module in order)) > 1:
            halves[i] = replace(halves[i], stream=f"it runs {times} times in one pass")
    behind = [n for n in norms if order and order[-1] is n and sum(m is n for m in order) == 1]
    return Trace(tuple(halves), behind[0] if behind else None)


def _called_once(watch: _Watch, block: nn.Module, halves: Halves) -> Halves:
    """Without the modules that run more often than once: their hooks would act twice."""

    def kept(addend: Addend) -> Addend:
        times = watch.calls[id(block.get_submodule(addend.path))] if addend.path else 1
        if times == 1:
            return addend
        told = f"{addend.told}, which runs {times} times in one pass"
        return replace(addend, path=None, heads=None, told=told)

    return replace(halves, addends=tuple(kept(a) for a in halves.addends))


@contextmanager
def _watched(
    watch: _Watch, block: nn.Module, index: int, found: dict[int, Halves]
) -> Iterator[None]:
    def enter(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch.enter(block)
        given = _stream(args, kwargs)
        if given is not None:
            watch.node(given).made_by = "the stream"

    def leave(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any) -> None:
        given, out, told = _stream(args, kwargs), _first(made), ""
        if given is None:
            told = "it takes no tensor called hidden_states, nor one as its first argument"
        elif out is None:
            told = f"it returns a {type(made).__name__}, not a tensor or a tuple of tensors"
        elif out.dim() != 3 or out.shape[:2] != (1, 3):
            told = f"its states have the shape {tuple(out.shape)}, not (batch, tokens, width)"
        if given is None or out is None or told:
            found[index] = Halves(reason=told, stream=told)
        else:
            found[index] = _taken_apart(watch, block, watch.node(out), watch.node(given))
        watch.enter(None)

    def child(path: str):
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: Any, made: Any) -> None:
            if watch.block is not block:
                return
            out, given = _first(made), _first((*args, *kwargs.values()))
            watch.calls[id(module)] += 1
            if out is not None:
                watch.node(out).modules.append(path)
            if given is not None:
                watch.given[path] = watch.node(given)

        return note

    with ExitStack() as stack:
        for path, module in block.named_modules():
            # Dropout hands on what it takes, and one may serve both halves.
            if path and not isinstance(module, (nn.Identity, nn.Dropout)):
                hook = module.register_forward_hook(child(path), with_kwargs=True)
                stack.callback(hook.remove)
        stack.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(block.register_forward_hook(leave, with_kwargs=True).remove)
        yield


def _stream(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    given = args[0] if args else kwargs.get("hidden_states")
    return given if isinstance(given, Tensor) else None


def _first(made: Any) -> Tensor | None:
    """The state among a module's outputs or inputs: the tensor itself, or the first of a tuple."""
    if isinstance(made, tuple):
        made = made[0] if made else None
    return made if isinstance(made, Tensor) else None


def _taken_apart(watch: _Watch, block: nn.Module, out: _Node, source: _Node) -> Halves:
    steps = _steps(out, source)
    if steps is None:
        by = f"the output of {out.modules[-1]}" if out.modules else f"the result of {out.made_by}"
        return Halves(reason=f"its output is not its input plus something, but {by}")
    addends: list[Addend] = []
    for step in steps:
        made = [_addend(watch, block, node, source) for node in step]
        if any(a.path is None for a in made):  # whose half the rest is, nothing tells
            made = [replace(a, path=None, heads=None) for a in made]
        addends += made
    if [a.role for a in addends] == ["attention", ""] and _is_linear(block, addends[1].path):
        addends[1] = replace(addends[1], role="mlp")  # an MLP spread out in the block
    return Halves(tuple(addends))


def _is_linear(block: nn.Module, path: str | None) -> bool:
    weights = dict(block.get_submodule(path).named_parameters()) if path else {}
    return "weight" in weights and weights["weight"].dim() == 2


def _steps(node: _Node, source: _Node) -> list[list[_Node]] | None:
    """What is added at each sum from `source` to `node`; None if sums alone do not lead there."""
    if node is source:
        return []
    if node.made_by == COPY:
        return _steps(node.parents[0], source)
    if node.made_by != SUM:
        return None
    for i, parent in enumerate(node.parents):
        before = _steps(parent, source)
        if before is not None:
            return [*before, _parts(node.parents[1 - i])]
    return None


def _parts(node: _Node) -> list[_Node]:
    if node.modules or node.made_by not in (SUM, COPY):
        return [node]
    return [part for parent in node.parents for part in _parts(parent)]


def _addend(watch: _Watch, block: nn.Module, node: _Node, source: _Node) -> Addend:
    if not node.modules:
        return Addend(None, "", None, f"the result of {node.made_by}, which is no module's output")
    path = node.modules[-1]
    half = _before_norms(watch, block, node)
    role = _role(block, half.modules[-1]) if half.modules else ""
    told = f"{path} ({_kind(block, path)})"
    if len(node.shape) != len(source.shape):
        return Addend(None, role, None, f"{told}, flattened over the batch")
    heads = _projection(watch, block, half) if role == "attention" else None
    return Addend(path, role, heads, told)


def _before_norms(watch: _Watch, block: nn.Module, node: _Node) -> _Node:
    """The half whose output a norm took, if a norm's output is what is added."""
    while node.modules and "norm" in _kind(block, node.modules[-1]).lower():
        given = watch.given.get(node.modules[-1])
        if given is None or given is node:
            break
        node = _origin(given)
    return node


def _projection(watch: _Watch, block: nn.Module, half: _Node) -> str | None:
    """The innermost module whose output the attention's is: it projects the heads."""
    path = _origin(half, through=True).modules[0]
    kind = _kind(block, path).lower()
    if any(word in kind for word in (ATTENTION, "norm")):
        return None
    given = watch.given.get(path)
    return path if given is not None and len(given.shape) == len(half.shape) else None


def _origin(node: _Node, *, through: bool = False) -> _Node:
    """What a tensor is a copy of, as far back as modules made it."""
    while node.made_by == COPY and (not node.modules or (through and node.parents[0].modules)):
        node = node.parents[0]
    return node


def _role(block: nn.Module, path: str) -> str:
    names = path.split(".")
    inside = [".".join(names[: i + 1]) for i in range(len(names))]
    classes = [_kind(block, p).lower() for p in inside]
    if any(ATTENTION in name for name in classes):
        return "attention"
    return "mlp" if any(word in name for name in (*classes, *names) for word in MLP) else ""


def _kind(block: nn.Module, path: str) -> str:
    return type(block.get_submodule(path)).__name__
