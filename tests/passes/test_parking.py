"""Original weights wait in a file while packed copies compute, and nobody can tell."""

from __future__ import annotations

import copy
import gc
import io
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

import sdaccel
from sdaccel import mapped_file
from sdaccel.errors import SdaccelWarning
from sdaccel.passes import parking
from sdaccel.passes.compile import _forget_marks
from sdaccel.passes.compiled import Compiler
from sdaccel.passes.compiled_region import Region
from sdaccel.passes.parking import Parking
from sdaccel.patch import Patch
from sdaccel.report import PassRecord

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")


@pytest.fixture(autouse=True)
def a_disk(monkeypatch: Any, tmp_path: Path) -> Path:
    """Temporary files go to a folder of the test's own, which passes for one on a disk."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(mapped_file, "file_system", lambda _: "ext4")
    return tmp_path


class InFiles:
    """Tells which tensors lie in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._ranges = [
            tuple(int(each, 16) for each in line.split()[0].split("-"))
            for line in Path("/proc/self/maps").read_text().splitlines()
            if str(folder) in line
        ]

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return any(low <= tensor.data_ptr() < high for low, high in self._ranges)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    return nn.Sequential(convolution, nn.Linear(6, 5).to(torch.bfloat16), nn.GroupNorm(2, 8))


def park(module: nn.Module, *constants: torch.Tensor, wanted: bool | None = True) -> Parking:
    parked = Parking("model", PassRecord("compile", "exact"), wanted)
    parked.settle(module, constants)
    return parked


def looks(module: nn.Module) -> list[Any]:
    return [
        (id(each), each.dtype, each.shape, each.stride(), each.requires_grad, tiny.bits(each))
        for each in module.parameters()
    ]


def test_parked_weights_are_what_they_were_and_come_back_so(a_disk: Path) -> None:
    module = model()
    before = looks(module)
    parked = park(module)
    files = InFiles(a_disk)
    assert all(each in files for each in module.parameters())
    assert looks(module) == before
    assert parked.record.ran["weights parked"] == 6
    assert "original weights wait on disk" in parked.record.notes[0]
    parked.close()
    gc.collect()
    assert looks(module) == before
    assert str(a_disk) not in Path("/proc/self/maps").read_text()


def test_a_write_while_parked_is_kept() -> None:
    module = model()
    parked = park(module)
    with torch.no_grad():
        module[0].weight.fill_(3.0)
    parked.leave_memory()
    assert (module[0].weight == 3.0).all()
    state = {key: value + 1 for key, value in module.state_dict().items()}
    module.load_state_dict(state)
    parked.close()
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


def test_weights_that_share_memory_still_do() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    module[2].weight = nn.Parameter(module[0].weight.detach()[:2])
    parked = park(module)
    for _ in range(2):
        with torch.no_grad():
            module[0].weight.add_(1)
        assert module[1].weight is module[0].weight
        assert torch.equal(module[2].weight, module[0].weight[:2])
        parked.close()


def test_what_the_program_reads_stays_in_memory(a_disk: Path) -> None:
    module = model()
    park(module, module[1].bias, module[0].weight.detach())
    files = InFiles(a_disk)
    assert [each in files for each in module.parameters()] == [False, True, True, False, True, True]


def test_what_a_later_program_reads_comes_back(a_disk: Path) -> None:
    module = model()
    parked = park(module)
    before = looks(module)
    parked.settle(module, [constant := module[0].bias.detach()])
    files = InFiles(a_disk)
    assert module[0].bias not in files
    assert module[0].weight in files
    assert constant.data_ptr() == module[0].bias.data_ptr()
    assert looks(module) == before


def test_weights_that_somebody_else_holds_stay(a_disk: Path) -> None:
    module = model()
    held = module[0].weight.detach()
    park(module)
    files = InFiles(a_disk)
    assert module[0].weight not in files
    assert module[0].weight.data_ptr() == held.data_ptr()
    assert module[1].weight in files


def test_only_weights_that_are_worth_a_file_move(monkeypatch: Any, a_disk: Path) -> None:
    module = model()
    assert park(module, wanted=None).record.notes == []
    assert module[0].weight not in InFiles(a_disk)
    monkeypatch.setattr(parking, "PAYS_FROM", 100)
    park(module, wanted=None)
    assert module[0].weight in InFiles(a_disk)


def test_who_wants_none_of_it_gets_none(a_disk: Path) -> None:
    module = model()
    assert park(module, wanted=False).record.notes == []
    assert module[0].weight not in InFiles(a_disk)


def test_without_a_place_weights_stay_and_the_report_says_why(monkeypatch: Any) -> None:
    monkeypatch.setattr(mapped_file, "file_system", lambda _: "tmpfs")
    module = model()
    before = looks(module)
    pointers = [each.data_ptr() for each in module.parameters()]
    parked = park(module)
    assert "stay in memory: " in parked.record.notes[0]
    assert "is not on a disk (tmpfs)" in parked.record.notes[0]
    assert looks(module) == before
    assert [each.data_ptr() for each in module.parameters()] == pointers


def test_a_disk_that_fails_half_way_leaves_all_as_it_was(monkeypatch: Any) -> None:
    def fail(*_: Any) -> None:
        raise OSError("Input/output error")

    monkeypatch.setattr("mmap.mmap", fail)
    module = model()
    pointers = [each.data_ptr() for each in module.parameters()]
    assert "Input/output error" in park(module).record.notes[0]
    assert [each.data_ptr() for each in module.parameters()] == pointers


def test_the_file_goes_with_the_weights(a_disk: Path) -> None:
    module = model()
    parked = park(module)
    assert list(a_disk.iterdir()) == []
    assert str(a_disk) in Path("/proc/self/maps").read_text()
    del module, parked
    gc.collect()
    assert str(a_disk) not in Path("/proc/self/maps").read_text()


def test_copies_and_saved_files_hold_the_weights(tmp_path: Path) -> None:
    unet = tiny.unet()
    expected = {name: tiny.bits(each) for name, each in unet.state_dict().items()}
    park(unet)
    unet.save_pretrained(tmp_path / "unet")
    again = type(unet).from_pretrained(tmp_path / "unet")
    buffer = io.BytesIO()
    torch.save(unet.conv_in.weight, buffer)
    assert buffer.tell() < 2 * unet.conv_in.weight.nbytes + 2000
    buffer.seek(0)
    assert torch.equal(torch.load(buffer), unet.conv_in.weight)
    for other in (again, copy.deepcopy(unet)):
        assert {name: tiny.bits(each) for name, each in other.state_dict().items()} == expected


def test_a_copy_lies_in_memory_of_its_own(a_disk: Path) -> None:
    module = model()
    park(module)
    twin = copy.deepcopy(module)
    half = copy.deepcopy(module).to(torch.float16)
    files = InFiles(a_disk)
    assert not any(each in files for each in (*twin.parameters(), *half.parameters()))


def test_in_inference_mode_parameters_stay_ordinary_ones() -> None:
    module = model()
    with torch.inference_mode():
        parked = park(module)
        parked.close()
    assert not any(each.is_inference() for each in module.parameters())


class Layers(nn.Module):
    """A convolution and two linear layers, which Inductor packs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(4, 16, 3, padding=1)
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convolution(x).permute(0, 2, 3, 1)
        return self.second(torch.nn.functional.silu(self.first(x)))


@torch.no_grad()
def test_a_compiled_program_runs_on_its_copies_and_notices_a_write(a_disk: Path) -> None:
    module, record, x = Layers(), PassRecord("compile", "exact"), torch.randn(2, 4, 8, 8)
    stock = module.forward
    expected, before = stock(x), looks(module)
    patch, parked = Patch(), Parking("model", record, wanted=True)
    _forget_marks(module, patch)
    region = Region(module, Compiler("model", record, freeze=True, parking=parked))
    module.forward = region
    assert torch.allclose(module(x), expected, atol=1e-5)
    files = InFiles(a_disk)
    for layer in (module.convolution, module.first, module.second):
        assert layer.weight in files
    assert looks(module) == before
    assert not region.renew_if_stale(), "parking is no change"
    assert torch.allclose(module(x), expected, atol=1e-5)

    module.first.weight.add_(1)
    assert region.renew_if_stale()
    changed = module(x)
    assert not torch.allclose(changed, expected, atol=1e-2)
    assert torch.allclose(changed, stock(x), atol=1e-4)
    assert module.first.weight in InFiles(a_disk)
    parked.close()
    assert module.first.weight not in InFiles(a_disk)
    patch.undo()
    assert not any(vars(each) for each in module.parameters()), "marks are left on the weights"
    torch._dynamo.reset()


def as_if_frozen(pipe: Any) -> Any:
    """A pipe compiled by a backend that packs nothing, whose programs seem to hold a constant."""
    options = {"backend": "eager", "freeze": True, "park": True}
    sdaccel.accelerate(pipe, "none", memory_format=True, compile=options)
    for region in (pipe.unet.forward, pipe.vae.decoder.forward):
        region._compiler._constants.append(torch.zeros(1))
    return pipe


def test_restore_brings_the_weights_of_a_pipe_back(a_disk: Path) -> None:
    pipe = tiny.stable_diffusion()
    picture, before = tiny.draw(pipe), tiny.snapshot(pipe)
    as_if_frozen(pipe)
    tiny.draw(pipe)
    assert pipe.unet.conv_in.weight in InFiles(a_disk)
    tiny.draw(pipe)
    assert not sdaccel.report(pipe)["compile"].ran["renewed for new weights"]
    sdaccel.restore(pipe)
    assert pipe.unet.conv_in.weight not in InFiles(a_disk)
    assert tiny.snapshot(pipe) == before
    assert (tiny.draw(pipe) == picture).all()


def test_what_another_component_does_not_read_yet_waits_too(a_disk: Path) -> None:
    pipe = as_if_frozen(tiny.stable_diffusion())
    tiny.draw(pipe, output_type="latent")
    files = InFiles(a_disk)
    assert all(each in files for each in pipe.vae.parameters())
    assert not any(each in files for each in pipe.text_encoder.parameters())


def test_a_restored_component_is_left_alone_by_one_that_stays_accelerated(a_disk: Path) -> None:
    first = as_if_frozen(tiny.stable_diffusion())
    second = as_if_frozen(tiny.stable_diffusion(vae=first.vae))
    with pytest.warns(SdaccelWarning, match="vae stay accelerated"):
        sdaccel.restore(first)
    tiny.draw(second)
    files = InFiles(a_disk)
    assert second.vae.decoder.conv_in.weight in files
    assert not any(each in files for each in first.unet.parameters())
