"""The rungs of the ladder: stock, the peers, and plans; each opens on a pipe of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import sdaccel
from sdaccel import device
from sdaccel.errors import PlanError
from sdaccel.target import dtype_of, kind_of

from . import architectures, peers
from .architectures import Place
from .errors import BenchmarkError, Skip
from .families import cast
from .plan_options import plan_of
from .workloads import Workload

BASELINE = "stock-fp32"
STAND_IN = "stock-16bit"
"""What the others are held against where stock in fp32 has no room."""
IN_FP32 = "-fp32"
"""Behind a rung's name that would compute in 16 bit where the machine does that faster."""
Narrow = Literal["never", "on a GPU", "anywhere"]
"""Where a rung begins from networks in the 16-bit type that the device computes faster."""


@dataclass(frozen=True)
class Opened:
    """A rung at work on its pipe.

    `around` sets for a while what belongs to the whole process, so that the samples of other rungs
    go without it; `passes` tells what a plan did; `signature` is equal for two rungs that do the
    same, empty for one that does nothing; with `fixed_shapes` it takes the workload's inputs alone;
    `dtype` is what it computes in, where that is not its weights'; `workload` what it runs in the
    place of the one that was asked for, such as fewer steps; `spent` the seconds of setting up that
    earlier rungs have taken off this one, for it would have needed them alone.
    """

    pipe: Any
    effect: str = "exact"
    around: Callable[[], AbstractContextManager[object]] | None = None
    passes: Callable[[], dict[str, str]] = dict
    signature: object = None
    fixed_shapes: bool = False
    dtype: str | None = None
    workload: Workload | None = None
    spent: float = 0.0

    def surroundings(self) -> AbstractContextManager[object]:
        """What `around` gives, or nothing."""
        return self.around() if self.around else nullcontext()


@dataclass(frozen=True)
class Rung:
    """One way to run a workload; its kind is "stock", "peer", "plan" or "control"."""

    name: str
    kind: str
    summary: str
    put_on: Callable[[Any, Workload], AbstractContextManager[Opened]]
    narrow: Narrow = "never"

    def open(self, pipe: Any, workload: Workload) -> AbstractContextManager[Opened]:
        """The rung at work on a pipe of its own; may raise `Skip`, entering it too."""
        if self.narrow == "anywhere" or (self.narrow == "on a GPU" and pipe.device.type == "cuda"):
            to_fast_dtype(pipe, workload.networks_of(pipe))
        return self.put_on(pipe, workload)


def rung(name: str) -> Rung:
    """A rung by its name, or any plan expression; raises `BenchmarkError` for anything else."""
    from .controls import fewer_steps
    from .export_rungs import EXPORTS
    from .peer_rungs import PEERS, with_setting

    known = {each.name: each for each in (*_STOCK_AND_PEERS, *PEERS, *EXPORTS)}
    plain = name if name in known else name.removesuffix(IN_FP32)
    found = known.get(plain) or fewer_steps(plain) or with_setting(plain)
    if found is not None and plain == name:
        return found
    if found is not None and found.narrow == "anywhere":
        return _in_fp32(found, name)
    try:
        plan = plan_of(name)
    except PlanError as error:
        raise BenchmarkError(
            f"There is no rung '{name}': choose from {', '.join(known)}, fewer-steps-N, a peer at "
            f"a setting such as deepcache-5, or a plan such as eager+step_cache[interval=2]. "
            f"{error}"
        ) from error
    # nobody draws in fp32 on a GPU
    return Rung(name, "plan", "", lambda pipe, workload: _plan(pipe, workload, plan), "on a GPU")


def _in_fp32(found: Rung, name: str) -> Rung:
    """A rung as it is where the machine computes no 16-bit type faster."""

    def put_on(pipe: Any, workload: Workload) -> AbstractContextManager[Opened]:
        dtypes = {str(dtype_of(getattr(pipe, each))) for each in workload.networks_of(pipe)}
        if dtypes != {"torch.float32"}:
            raise Skip("Stock itself is not in fp32 here.")
        return found.put_on(pipe, workload)

    return replace(found, name=name, put_on=put_on, narrow="never")


def each_pass(expression: str) -> list[Rung]:
    """The passes of a plan added one at a time, in the order in which they are applied.

    What a pass needs comes with it. Raises `BenchmarkError` for no plan, and for one from a file:
    its passes may have options, which no expression has.
    """
    if expression.endswith(".json"):
        raise BenchmarkError(
            f"'{expression}' is a file: passes are added one at a time of a named plan, or of an "
            "expression such as lossless+precision."
        )
    whole = rung(expression)
    if whole.kind != "plan":
        raise BenchmarkError(f"'{expression}' is no plan: choose from {', '.join(PLANS)}.")
    rungs: list[Rung] = []
    name, added = "none", list[str]()
    for each in sdaccel.Plan.of(expression).passes:
        name, added = f"{name}+{each.name}", [*added, each.name]
        try:
            rungs.append(replace(rung(name), summary=f"adds {' and '.join(added)}"))
        except BenchmarkError:
            continue
        added = []
    return rungs


@contextmanager
def _plan(pipe: Any, workload: Workload, plan: sdaccel.Plan) -> Iterator[Opened]:
    """The pipe accelerated, with the process-wide allocator held by a pipe beside it."""
    around = _allocator_on(pipe.device) if "allocator" in plan else None
    sdaccel.accelerate(pipe, plan.override(allocator=False) if around else plan)

    def states() -> dict[str, str]:
        records = {record.name: record for record in sdaccel.report(pipe).passes}
        found = {name: state_of(record) for name, record in records.items()}
        return {"allocator": "applied", **found} if around else found

    applied = {name for name, state in states().items() if state.startswith("applied")}
    kept = [each for each in plan.passes if each.name in applied]
    signature = tuple((each.name, str(each.options)) for each in kept)
    effects = [each.effect.value for each in kept]
    effect = max(effects, key=_EFFECTS.index, default=_EFFECTS[0])
    try:
        yield Opened(pipe, effect, around, states, signature)
    finally:
        sdaccel.restore(pipe)


_EFFECTS = ("exact", "lower precision", "approximate")


def state_of(record: Any) -> str:
    """ "applied", "applied, not run" while its code never ran, else why not."""
    if record.applied:
        return "applied" if record.ran else "applied, not run"
    reasons = sorted({str(reason) for reason in record.refused.values()})
    return ": ".join([record.state, *(["; ".join(reasons)] if reasons else [])])


def _allocator_on(where: Any) -> Callable[[], AbstractContextManager[object]] | None:
    """A way to switch the allocator pass on and off; None where it refuses.

    A tiny pipe on the same device holds the setting: a twin of the timed one would keep the weights
    in memory that a plan replaces.
    """
    pipe = architectures.stable_diffusion(architectures.TINY_UNET, architectures.TINY_VAE)
    pipe.to(where)
    plan = sdaccel.Plan.of("none+allocator")
    with sdaccel.accelerated(pipe, plan):
        if not sdaccel.report(pipe)["allocator"].applied:
            return None
    return lambda: sdaccel.accelerated(pipe, plan)


@contextmanager
def _stock(pipe: Any, workload: Workload) -> Iterator[Opened]:
    yield Opened(pipe)


@contextmanager
def _stock_16bit(pipe: Any, workload: Workload) -> Iterator[Opened]:
    to_fast_dtype(pipe, workload.networks_of(pipe), required=True)
    yield Opened(pipe, "lower precision")


@contextmanager
def _compile(
    pipe: Any, workload: Workload, freezing: bool = False, allocator: bool = False
) -> Iterator[Opened]:
    around = _allocator_on(pipe.device) if allocator else None
    if allocator and around is None:
        raise Skip("The allocator can't be set here, so this is torch-compile-freezing.")
    with peers.compiled(pipe, workload.networks_of(pipe), freezing):
        yield Opened(pipe, around=around)


@contextmanager
def _openvino(pipe: Any, workload: Workload) -> Iterator[Opened]:
    if pipe.device.type != "cpu":
        raise Skip("OpenVINO is measured on CPUs alone.")
    dtype = str(device.faster_dtype("cpu").dtype).removeprefix("torch.")
    precision = {"bfloat16": "bf16", "float16": "f16"}.get(dtype, "f32")
    with peers.openvino(pipe, workload.networks_of(pipe), workload.prepare(pipe), precision):
        effect = "exact" if precision == "f32" else "lower precision"
        yield Opened(pipe, effect, fixed_shapes=True, dtype=dtype)


def in_16_bit(workload: Workload) -> Any:
    """The stock pipe in a GPU's 16-bit type, never in fp32 there; `Skip` without a GPU."""
    import torch

    if not torch.cuda.is_available():
        raise Skip("It is stock's stand-in on a GPU that has no room for fp32.")
    pipe = workload.make(Place("cuda", device.faster_dtype("cuda").dtype))
    to_fast_dtype(pipe, workload.networks_of(pipe), required=True, where="cuda")
    return pipe.to("cuda")


def to_fast_dtype(
    pipe: Any, names: Sequence[str], required: bool = False, where: str | None = None
) -> None:
    """Cast the networks to the 16-bit type that a device computes faster, channels-last.

    The device is the pipe's, or `where` it is about to go.

    What diffusers keeps in fp32 stays so. Text encoders go with them, since networks expect what
    those give in their own dtype.

    Where there is none they stay as they are; raises `Skip` where that is `required`.
    """
    import torch

    choice = device.faster_dtype(where or pipe.device)
    if choice.dtype == torch.float32:
        if required:
            raise Skip(f"{choice.reason[0].upper()}{choice.reason[1:]}.")
        return
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    kinds = {name: kind_of(name, type(part)) for name, part in parts.items()}
    for name in (*names, *(name for name in kinds if kinds[name] == "text_encoder")):
        network = getattr(pipe, name)
        cast(network, choice.dtype)
        peers.to_channels_last(network)


_STOCK_AND_PEERS = (
    Rung(BASELINE, "stock", "diffusers as it comes", _stock),
    Rung(STAND_IN, "stock", "16 bit and channels-last", _stock_16bit),
    Rung("torch-compile", "peer", "each network one graph", _compile, "anywhere"),
    Rung(
        "torch-compile-freezing",
        "peer",
        "and with frozen weights, channels-last",
        lambda pipe, workload: _compile(pipe, workload, freezing=True),
        "anywhere",
    ),
    Rung(
        "torch-compile-freezing-malloc",
        "peer",
        "and with malloc set as the allocator pass sets it",
        lambda pipe, workload: _compile(pipe, workload, freezing=True, allocator=True),
        "anywhere",
    ),
    Rung("openvino", "peer", "static shapes, latency hint", _openvino),
)
PLANS = ("eager", "lossless", "balanced", "fast")
QUICK = (STAND_IN, "eager", "eager+precision")
"""Rungs that are ready at once."""
DEFAULT = (*(each.name for each in _STOCK_AND_PEERS), *PLANS)
