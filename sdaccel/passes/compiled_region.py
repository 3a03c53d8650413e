"""What runs in the place of a module's forward, once that is compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .frozen import Fingerprint
from .regions import shapes

if TYPE_CHECKING:
    import torch

    from .compiled import Compiler, Program


class Region:
    """Stands where a module's `forward` is looked up, so the module's own hooks stay outside."""

    def __init__(self, module: torch.nn.Module, compiler: Compiler) -> None:
        functools.update_wrapper(self, module.forward)
        self.module = module
        self._compiler = compiler
        self._variants: list[Variant] = []
        self.own = self.variant(type(module).forward)
        self._compiled_with: Fingerprint | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.own(*args, **kwargs)

    def variant(self, function: Callable[..., Any]) -> Variant:
        """Another function of the module, compiled as its forward is, and renewed with it."""
        made = Variant(self, function)
        self._variants.append(made)
        return made

    def run(self, variant: Variant, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a variant returns, compiled when it is first called."""
        if variant.program is None:
            variant.program = self._compiler.program(variant, shapes(args, kwargs))
        program = variant.program
        result, compiled = program.run(self.module, variant.stock, args, kwargs)
        if compiled and self._compiler.freeze:
            self._compiler.settle(self.module, whole=program.whole)
            self._compiled_with = self._fingerprint()
        return result

    @property
    def stock(self) -> Callable[..., Any]:
        """The module's forward as it was."""
        return self.own.stock

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
        if before is None or before == self._fingerprint():
            return False
        self._compiled_with = None
        for each in self._variants:
            if each.program is not None:
                each.program.renew()
        return True

    def _fingerprint(self) -> Fingerprint:
        found = Fingerprint.of(self.module)
        if self._compiler.parking is not None:
            self._compiler.parking.leave_memory()
        return found


class Variant:
    """A function of a region's module, the module its first argument, that is compiled."""

    def __init__(self, region: Region, function: Callable[..., Any]) -> None:
        self.region = region
        self.function = function
        self.program: Program | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import torch
        from torch.utils._python_dispatch import _get_current_dispatch_mode

        if torch.compiler.is_compiling() or self.dead:
            return self.stock(*args, **kwargs)
        if _get_current_dispatch_mode() is not None:  # it wants to see the operations
            return self.stock(*args, **kwargs)
        return self.region.run(self, args, kwargs)

    @property
    def dead(self) -> bool:
        """Whether it runs eagerly for good."""
        return self.program is not None and self.program.dead

    def stock(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself."""
        return self.function(self.region.module, *args, **kwargs)
