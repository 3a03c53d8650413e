"""Original weights that wait in a file while packed copies of them compute.

A program with frozen weights holds packed copies, and the parameters themselves are there for
`state_dict`, adapters and the way back alone. Here they move into a mapped file: they are read,
written, saved and copied as before, bit for bit, but take no memory while nobody does.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..mapped_file import Mapping, NoDiskError, map_copies

if TYPE_CHECKING:
    import torch

    from ..report import PassRecord

PAYS_FROM = 16 << 20
"""Bytes of weights. Less is lost among what the compiler itself takes, and not worth a file."""


@dataclass
class Parking:
    """The weights of one component that wait in files.

    `wanted`: True parks whatever is not read, False nothing, None what is large enough to pay.
    """

    name: str
    record: PassRecord
    wanted: bool | None = None
    _mappings: list[Mapping] = field(default_factory=list)
    _parked: dict[int, list[weakref.ref[torch.Tensor]]] = field(default_factory=dict)
    _constants: list[weakref.ref[torch.Tensor]] = field(default_factory=list)

    def settle(self, module: torch.nn.Module, constants: Iterable[torch.Tensor]) -> None:
        """Park the weights of `module` that no graph reads, now that one holds `constants`.

        A weight that is such a constant itself, not packed, stays in memory, or comes back. Where
        there is no place for a file, the record says so and all stays as it is.
        """
        import torch

        if self.wanted is False:
            return
        self._constants += [weakref.ref(each) for each in constants]
        self._constants = [each for each in self._constants if each() is not None]
        # Tensors made in inference mode would turn the parameters into such for good.
        with torch.inference_mode(False), torch.no_grad():
            self._fetch(self._read())
            self._park(list(self._idle(module)))
        self.leave_memory()

    def leave_memory(self) -> None:
        """Let go of the pages that a look at parked weights has brought back."""
        for mapping in self._mappings:
            mapping.leave_memory()

    def close(self) -> None:
        """Bring every parked weight back into ordinary memory, as it is now, and park no more."""
        import torch

        self.wanted = False
        with torch.inference_mode(False), torch.no_grad():
            self._fetch(set(self._parked))
        self._mappings.clear()

    def _read(self) -> set[int]:
        """Where the storages begin that programs read."""
        return {_address(constant) for constant in self._alive()}

    def _alive(self) -> list[torch.Tensor]:
        constants = (reference() for reference in self._constants)
        return [each for each in constants if each is not None]

    def _idle(self, module: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
        """The parameters that nobody reads and that are not parked yet, together by storage.

        A storage that anyone else holds as well is left out: moving would free nothing.
        """
        settled = self._read() | self._parked.keys()
        sharing: dict[int, list[torch.Tensor]] = {}
        for parameter in module.parameters():
            if _movable(parameter) and _address(parameter) not in settled:
                sharing.setdefault(_address(parameter), []).append(parameter)
        return (each for each in sharing.values() if _holders(each[0]) == len(each))

    def _park(self, groups: list[list[torch.Tensor]]) -> None:
        originals = [tensors[0].untyped_storage() for tensors in groups]
        size = sum(each.nbytes() for each in originals)
        if size == 0 or (self.wanted is None and size < PAYS_FROM):
            return
        start = time.perf_counter()
        try:
            mapping = map_copies(originals)
        except (NoDiskError, OSError) as error:
            self.record.note(f"{self.name}: its original weights stay in memory: {error}")
            return
        self._mappings.append(mapping)
        for tensors, storage in zip(groups, mapping.storages, strict=True):
            self._parked[storage.data_ptr()] = [weakref.ref(each) for each in tensors]
            _move(tensors, storage)
        self.record.ran["weights parked"] += sum(len(each) for each in groups)
        self.record.seconds["park"] += time.perf_counter() - start
        self.record.note(
            f"{self.name}: {in_words(size)} of original weights wait on disk until somebody reads "
            "them"
        )

    def _fetch(self, addresses: set[int]) -> None:
        for address in addresses & self._parked.keys():
            parameters = [reference() for reference in self._parked.pop(address)]
            tensors = [each for each in (*parameters, *self._alive()) if each is not None]
            looking = [each for each in tensors if _address(each) == address]
            if looking:
                _move(looking, looking[0].untyped_storage().clone())


def _movable(parameter: torch.Tensor) -> bool:
    """Whether a parameter is plain memory of this process's own."""
    import torch

    return (
        type(parameter.data) is torch.Tensor
        and parameter.device.type == "cpu"
        and parameter.layout == torch.strided
        and not parameter.is_quantized
        and not parameter.is_shared()
        and parameter.untyped_storage().nbytes() > 0
    )


def _address(tensor: torch.Tensor) -> int:
    """Where a tensor's storage begins, 0 for one that has none."""
    import torch

    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def _holders(tensor: torch.Tensor) -> int:
    """How many tensors there are on a tensor's storage, those in nobody's sight included."""
    import torch

    storage = tensor.untyped_storage()
    itself = 1
    return int(torch._C._storage_Use_Count(storage._cdata)) - itself


def _move(tensors: Iterable[torch.Tensor], storage: torch.UntypedStorage) -> None:
    """Let tensors of one storage look at another with the same bytes, in the same way."""
    for tensor in tensors:
        moved = tensor.data.new_empty(0)
        moved.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
        tensor.data = moved


def in_words(count: int) -> str:
    """Bytes for a reader: "1.7 GB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
