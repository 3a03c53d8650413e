"""A denoiser's forward launched at one blow: recorded as a CUDA graph, and replayed.

At small batches a GPU waits for Python to launch kernel after kernel; a graph launches all at once.
A graph is fixed in all but its tensors' values, so there is one for each kind of call: shapes,
strides and dtypes of its tensors, and the values of its other arguments. With `step_cache` there is
one for full forwards and one for shallow ones, with `hoist` its tables' rows are inputs. The
scheduler's step and what a pipeline does in between are not in the graph.

A replay runs no Python. Where some would have to run (hooks on modules, processors that are not
diffusers' own, another library's caches), and where recording isn't allowed (a wait for the device,
tensors elsewhere), the call runs as it is, and the report has the reason. Weights may be written in
place, as adapters that are swapped are; where they lie elsewhere, all is recorded anew.
Other passes' counts of what ran grow when a forward is recorded, not when it is replayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from . import graph_recorder
from .base import Effect, Pass
from .graphed import Graph
from .replaying import foreign_forward, watch_forward

if TYPE_CHECKING:
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target

_MODES_WITH_GRAPHS = ("reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class CudaGraph(Pass):
    """Record each denoiser's forward and replay it.

    `limit` is how many graphs a denoiser keeps; the one that was least recently used goes.
    """

    limit: int = 8

    name: ClassVar[str] = "cuda_graph"
    summary: ClassVar[str] = "denoisers' forwards launched at one blow"
    effect: ClassVar[Effect] = Effect.EXACT
    # last, around whatever the others have made of a forward
    order: ClassVar[int] = 99
    # they decide by the step what they do, and a graph would repeat one step's decision
    conflicts: ClassVar[frozenset[str]] = frozenset({"token_merge", "sparse_attention"})

    def __post_init__(self) -> None:
        if not isinstance(self.limit, int) or isinstance(self.limit, bool) or self.limit < 1:
            raise ValueError(f"limit is a whole number of at least 1, not {self.limit!r}")

    def refusal(self, target: Target) -> str | None:
        if graph_recorder.recorder_for(target.device) is None:
            return f"graphs need a CUDA device, and the pipe is on {target.device}"
        return None

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        recorder = graph_recorder.recorder_for(target.device)
        assert recorder is not None
        for component, model in target.each(record, "denoiser"):
            reason = _obstacle(component, model)
            if reason is not None:
                record.refuse(component.name, reason)
            else:
                graphs = partial(Graph, recorder=recorder)
                watch_forward(component, graphs, self.limit, target, patch, record)


def _obstacle(component: Component, model: Any) -> str | None:
    """Why no forward of a denoiser can be recorded, in half a sentence, or None."""
    from .compiled_region import Region

    for module in model.modules():
        forward = module.__dict__.get("forward")
        if isinstance(forward, Region) and forward.compiler.freeze:
            return "its weights are compiled in: give compile freeze=False"
        if isinstance(forward, Region) and forward.compiler.mode in _MODES_WITH_GRAPHS:
            return f"compile's mode {forward.compiler.mode!r} has graphs of its own"
    return foreign_forward(component, model)
