"""Operations written down in one forward, run again for every timestep of a schedule at once.

What depends on the timestep gets a first dimension T, the number of timesteps, and each operation
is vectorised over it (`torch.vmap`); a linear layer's rows become the rows of one product, which
rounds as the layer itself does. An operation that can't be vectorised, such as an op of `kernels`,
runs once a timestep. Weights that are elsewhere come to the device for the operation that reads
them, and go again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class TapeError(Exception):
    """An operation can't be run for several timesteps at once; says which."""


@dataclass(frozen=True)
class Ref:
    """Stands for the tensor of this number in what a step takes and gives."""

    number: int


@dataclass(frozen=True, eq=False)
class Step:
    """An operation with its arguments and results, tensors as `Ref`.

    `uses` are the numbers of what it read, `writes` of what it wrote to in place, `call` the module
    that it ran in. One in which the latents have a part has no `func`, and says only what else it
    used.
    """

    func: Any
    args: Any
    kwargs: Any
    results: Any
    uses: tuple[int, ...]
    writes: tuple[int, ...]
    call: Any

    def numbers(self) -> Iterator[int]:
        """The numbers of its results."""
        from torch.utils import _pytree

        return (each.number for each in _pytree.tree_leaves(self.results) if isinstance(each, Ref))


@dataclass(frozen=True)
class Tape:
    """The steps that lead to some targets, in order.

    `due` are the targets that are ready after a step, `over` the values that nobody reads any more,
    both by the step's place; a target that no step makes is due at -1.
    """

    steps: tuple[Step, ...]
    due: Mapping[int, Sequence[int]]
    over: Mapping[int, Sequence[int]]

    @classmethod
    def leading_to(cls, targets: Mapping[int, Any], steps: Sequence[Step]) -> Tape:
        """The steps that targets depend on; all, where some write in place.

        `targets` has the call that each is an output of: it is ready when that call is over.
        """
        replayed = [each for each in steps if each.func is not None]
        if not any(each.writes for each in replayed):
            replayed = _needed(targets, replayed)
        last: dict[int, int] = {}
        ended: dict[Any, int] = {}
        for place, each in enumerate(replayed):
            last.update(dict.fromkeys((*each.uses, *each.numbers()), place))
            lineage = each.call.lineage() if each.call is not None else ()
            ended.update(dict.fromkeys(lineage, place))
        ready = {number: ended.get(call, -1) for number, call in targets.items()}
        for number, place in ready.items():
            last[number] = max(place, last.get(number, -1))
        return cls(tuple(replayed), _by_place(ready), _by_place(last))

    def reads(self) -> set[int]:
        """The numbers of what the steps take and none of them makes, and of targets like that."""
        made, read = set[int](), set[int]()
        for each in self.steps:
            read.update(set(each.uses) - made)
            made.update(each.numbers())
        return read | {number for each in self.due.values() for number in each} - made

    def run(
        self,
        given: Mapping[int, torch.Tensor],
        batched: Mapping[int, torch.Tensor],
        keep: Callable[[int, torch.Tensor, bool], None],
    ) -> None:
        """Run the steps, and hand each target to `keep` with whether it has a first dimension T.

        `given` has what the steps read by number, `batched` the timesteps (T, ...), by number too.
        Raises `TapeError`.
        """
        values = _Values(dict(batched), set(batched), given)
        device = next(iter(batched.values())).device
        for place in range(-1, len(self.steps)):
            if place >= 0:
                _run(self.steps[place], values, device)
            for number in self.due.get(place, ()):
                keep(number, values[number], number in values.batched)
            for number in self.over.get(place, ()):
                values.own.pop(number, None)


def _by_place(places: Mapping[int, int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for number, place in places.items():
        found.setdefault(place, []).append(number)
    return found


@dataclass
class _Values:
    """What has been computed so far, which of it has a first dimension T, and what was given."""

    own: dict[int, torch.Tensor]
    batched: set[int]
    given: Mapping[int, torch.Tensor]

    def __getitem__(self, number: int) -> torch.Tensor:
        found = self.own.get(number)
        return self.given[number] if found is None else found


def _needed(targets: Iterable[int], steps: Sequence[Step]) -> list[Step]:
    wanted, found = set(targets), list[Step]()
    for each in reversed(steps):
        if not wanted.isdisjoint(each.numbers()):
            found.append(each)
            wanted.update(each.uses)
    return found[::-1]


def _run(step: Step, values: _Values, device: torch.device) -> None:
    """Run one step, its results into `values`."""
    from torch.utils import _pytree

    def is_ref(each: Any) -> bool:
        return isinstance(each, Ref)

    leaves, structure = _pytree.tree_flatten((step.args, step.kwargs), is_leaf=is_ref)
    places = [place for place, each in enumerate(leaves) if isinstance(each, Ref)]
    batched = [place for place in places if leaves[place].number in values.batched]
    if batched and any(number not in values.batched for number in step.writes):
        raise TapeError(f"{step.func} writes to what all timesteps share")
    for place in places:
        leaves[place] = _here(values[leaves[place].number], device)
    if not batched:
        args, kwargs = _pytree.tree_unflatten(leaves, structure)
        output = step.func(*args, **kwargs)
    else:
        output = _over_timesteps(step, leaves, structure, batched)
    results = _pytree.tree_leaves(step.results, is_leaf=is_ref)
    for ref, result in zip(results, _pytree.tree_leaves(output), strict=True):
        if isinstance(ref, Ref):
            values.own[ref.number] = result
            if batched:
                values.batched.add(ref.number)


def _here(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A released weight on the device, for one step; scalars on the CPU stay there, as in stock."""
    from .hoist_release import is_away

    return tensor.to(device, non_blocking=True) if is_away(tensor) else tensor


def _over_timesteps(step: Step, leaves: list[Any], structure: Any, batched: list[int]) -> Any:
    """One operation on (T, ...), where the leaves at the places `batched` have that dimension."""
    import torch
    from torch.utils import _pytree

    product = _as_one_product(step.func, leaves, batched)
    if product is not None:
        return product

    def once(*tensors: torch.Tensor) -> Any:
        arguments = list(leaves)
        for place, tensor in zip(batched, tensors, strict=True):
            arguments[place] = tensor
        args, kwargs = _pytree.tree_unflatten(arguments, structure)
        return step.func(*args, **kwargs)

    tensors = [leaves[place] for place in batched]
    if step.func.namespace == "aten":
        try:
            return torch.vmap(once)(*tensors)
        except RuntimeError as error:
            if step.writes:
                raise TapeError(f"{step.func} can't be vectorised: {error}") from error
    elif step.writes:
        raise TapeError(f"{step.func} writes in place")
    runs = [once(*each) for each in zip(*tensors, strict=True)]
    return _pytree.tree_map(lambda *each: torch.stack(each), *runs)


def _as_one_product(func: Any, leaves: list[Any], batched: list[int]) -> Any:
    """A linear layer of (T, rows, in) with weights that all share, as one product; else None."""
    rows = _rows_of_products().get(func)
    if rows is None or batched != [rows] or leaves[rows].dim() != 3:
        return None
    arguments = list(leaves)
    given = arguments[rows]
    arguments[rows] = given.flatten(0, 1)
    if rows == 1 and arguments[0].dim() == 2 and arguments[0].shape[0] > 1:
        return None
    return func(*arguments).unflatten(0, given.shape[:2])


@functools.cache
def _rows_of_products() -> Mapping[Any, int]:
    """Where products have the rows that become more."""
    import torch

    return {torch.ops.aten.addmm.default: 1, torch.ops.aten.mm.default: 0}
