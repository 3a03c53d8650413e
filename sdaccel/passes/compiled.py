"""A module's forward, compiled: what runs in its place, what it counts, what it does on failure."""

from __future__ import annotations

import functools
import gc
import re
import time
import types
import uuid
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import malloc
from ..errors import SdaccelWarning
from .frozen import Fingerprint
from .packing import held_by, repack_linears
from .parking import Parking
from .regions import shapes, signature

if TYPE_CHECKING:
    import torch

    from ..report import PassRecord

_MOST_RENEWALS = 4
"""How often a program may run into Dynamo's limit of 8 variants before it stays eager."""


@dataclass
class Compiler:
    """How the regions of one component are compiled, and the programs that came of it.

    `freeze` compiles the weights in as constants, a program for each region, and `parking` decides
    where the originals are meanwhile; otherwise regions whose signature and first shapes agree
    share a program. `idle` parks what nobody reads of the pipe's other components.
    """

    name: str
    record: PassRecord
    backend: str | Callable[..., Any] = "inductor"
    mode: str | None = None
    dynamic: bool | None = None
    freeze: bool = False
    parking: Parking | None = None
    idle: Sequence[Callable[[], None]] = ()
    executions: int = 0
    busy: float = 0.0
    _constants: list[torch.Tensor] = field(default_factory=list)
    _programs: dict[Hashable, Program] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiler:
        """A copied module goes on with the programs there are."""
        return self

    def program(self, region: Region, first_shapes: Hashable) -> Program:
        """The program of a region, made when the first of its kind is called."""
        key = id(region) if self.freeze else (signature(region.module), first_shapes)
        if key not in self._programs:
            self._programs[key] = Program(self, type(region.module).forward)
        return self._programs[key]

    def compile_graph(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        """The Dynamo backend: the one that was chosen, and a count of each run of what it made."""
        with warnings.catch_warnings():
            # Inductor's own modules use deprecated parts of torch, which a user can't mend.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            run = self._backend()(graph, inputs)
        self.record.ran["compilations"] += 1

        def counted(*args: Any) -> Any:
            start = time.perf_counter()
            result = run(*args)
            self.busy += time.perf_counter() - start
            self.executions += 1
            return result

        return counted

    def _backend(self) -> Callable[..., Any]:
        if callable(self.backend):
            return self.backend
        if self.backend != "inductor":
            from torch._dynamo.backends.registry import lookup_backend

            found: Callable[..., Any] = lookup_backend(self.backend)
            return found
        import torch._inductor
        from torch._inductor.compile_fx import compile_fx

        options = torch._inductor.list_mode_options(self.mode) if self.mode else {}
        return functools.partial(
            compile_fx, inner_compile=self._compile_inner, config_patches=options
        )

    def _compile_inner(self, graph: Any, *args: Any, **kwargs: Any) -> Any:
        """Inductor's compilation of a graph, the weights frozen into it packed once."""
        from torch._inductor.compile_fx import compile_fx_inner

        if repacked := repack_linears(graph):
            self.record.ran["linear layers packed by oneDNN"] += repacked
        self._constants += held_by(graph)
        return compile_fx_inner(graph, *args, **kwargs)

    def settle(self, module: torch.nn.Module, whole: bool) -> None:
        """After compiling for `module`: give back the compiler's memory, park what nobody reads.

        Between the parts of a program that is not `whole`, the module's own code reads weights.
        """
        constants, self._constants = self._constants, []
        gc.collect()
        if self.parking is not None and whole and constants:
            self.parking.settle(module, constants)
            for park in self.idle:
                park()
        malloc.trim()


class Region:
    """Stands where a module's `forward` is looked up, so the module's own hooks stay outside."""

    def __init__(self, module: torch.nn.Module, compiler: Compiler) -> None:
        functools.update_wrapper(self, module.forward)
        self.module = module
        self._stock = module.forward
        self._compiler = compiler
        self._program: Program | None = None
        self._compiled_with: Fingerprint | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import torch

        program = self._program
        if torch.compiler.is_compiling() or (program is not None and program.dead):
            return self._stock(*args, **kwargs)
        if program is None:
            program = self._compiler.program(self, shapes(args, kwargs))
            self._program = program
        result, compiled = program.run(self.module, self._stock, args, kwargs)
        if compiled and self._compiler.freeze:
            self._compiler.settle(self.module, whole=program.whole)
            self._compiled_with = self._fingerprint()
        return result

    @property
    def compiler(self) -> Compiler:
        """How it is compiled."""
        return self._compiler

    @property
    def compiled(self) -> bool:
        """Whether there is compiled code that holds weights of the module's."""
        return self._compiled_with is not None

    def renew_if_stale(self) -> bool:
        """Forget the compiled code if the weights it holds are no longer the module's."""
        before = self._compiled_with
        if self._program is None or before is None or before == self._fingerprint():
            return False
        self._compiled_with = None
        self._program.renew()
        return True

    def _fingerprint(self) -> Fingerprint:
        found = Fingerprint.of(self.module)
        if self._compiler.parking is not None:
            self._compiler.parking.leave_memory()
        return found


class Program:
    """Compiled code with a code object, so a cache of variants and a history of shapes, of its own.

    Dynamo keeps both by code object and by its name. Were they shared, one block's sizes would turn
    the next one's dynamic, frozen weights would be found by a block that has others, and from the
    ninth variant on all would silently run eagerly.
    """

    def __init__(self, compiler: Compiler, forward: Callable[..., Any]) -> None:
        self.dead = False
        self._compiler = compiler
        self._forward = forward
        self._fullgraph = True
        self._renewals = 0
        self._compilations = 0
        self.renew()

    @property
    def whole(self) -> bool:
        """Whether the module is compiled as one graph, with nothing in between."""
        return self._fullgraph

    def renew(self) -> None:
        """Start over with nothing compiled."""
        import torch

        self._run = torch.compile(
            _own_code(self._compiler.name, self._forward),
            backend=self._compiler.compile_graph,
            dynamic=self._compiler.dynamic,
            fullgraph=self._fullgraph,
        )

    def run(
        self,
        module: torch.nn.Module,
        stock: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Any, bool]:
        """The module's result, and whether something was compiled to get it.

        What can't be compiled runs eagerly, and the report says so; an error that the stock
        forward has too is its own.
        """
        compiler, record = self._compiler, self._compiler.record
        executions, busy = compiler.executions, compiler.busy
        compilations = record.ran["compilations"]
        start = time.perf_counter()
        try:
            with _freezing(compiler.freeze):
                result = self._run(module, *args, **kwargs)
        except Exception as error:
            if not _by_compiler(error):
                raise
            result = stock(*args, **kwargs)
            self._stumble(error)
            return result, False
        compiled = record.ran["compilations"] != compilations
        if compiled:
            self._count_compilation(time.perf_counter() - start - (compiler.busy - busy))
        if compiler.executions == executions:
            self._stumble(None)
        else:
            record.ran["compiled calls"] += 1
        return result, compiled

    def _count_compilation(self, seconds: float) -> None:
        record = self._compiler.record
        record.seconds["compile"] += seconds
        if self._compilations:
            record.ran["recompilations"] += 1
        self._compilations += 1

    def _stumble(self, error: Exception | None) -> None:
        """A call ran eagerly: decide what the next one does."""
        compiler = self._compiler
        compiler.record.ran["eager calls"] += 1
        if error is None or type(error).__name__ == "FailOnRecompileLimitHit":
            self._renewals += 1
            compiler.record.note(f"{compiler.name}: more variants than Dynamo keeps; started over")
            self.dead = self._renewals > _MOST_RENEWALS
        elif self._fullgraph and type(error).__name__ == "Unsupported":
            self._fullgraph = False
            compiler.record.note(f"{compiler.name}: compiled in parts, {_first_line(error)}")
        else:
            self.dead = True
        if not self.dead:
            self.renew()
            return
        if compiler.parking is not None:
            compiler.parking.close()
        why = _first_line(error) if error else "too many variants"
        compiler.record.note(f"{compiler.name}: a part of it runs eagerly, {why}")
        warnings.warn(
            f"A part of {compiler.name} can't be compiled and runs eagerly: {why}",
            SdaccelWarning,
            stacklevel=2,
        )


def _own_code(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls `forward`, a class's own, with a code object that no other has."""

    def run(module: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(module, *args, **kwargs)

    label = re.sub(r"\W", "_", f"{name}_{uuid.uuid4().hex[:8]}")
    code = run.__code__.replace(co_name=label)
    return types.FunctionType(code, globals(), label, None, run.__closure__)


@contextmanager
def _freezing(freeze: bool) -> Iterator[None]:
    """Inductor's switch for constant weights, on for one call.

    Dynamo reads the switch as well, so handing it to `torch.compile` as an option is not enough.
    """
    if not freeze:
        yield
        return
    import torch._inductor.config as settings

    before = settings.freezing
    settings.freezing = True
    try:
        yield
    finally:
        settings.freezing = before


def _by_compiler(error: Exception) -> bool:
    """Whether the compiler raised it, rather than the module."""
    return any(
        each.__module__.startswith(("torch._dynamo", "torch._inductor", "torch._functorch"))
        or each.__module__ == "torch.fx.experimental.symbolic_shapes"
        for each in type(error).__mro__
    )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
