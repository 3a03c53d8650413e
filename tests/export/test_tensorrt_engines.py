"""Where an engine comes from: loaded, refitted or built, and never one that does not belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_tensorrt
import pytest
import torch
from fake_tensorrt import names_of
from small_graph import exported as export

from sdaccel.errors import ExportError
from sdaccel.export.sessions import UnfitCallError
from sdaccel.export.tensorrt_engines import Opened, Wanted, build_engine, open_engine
from sdaccel.export.tensorrt_keys import Recipe
from sdaccel.export.tensorrt_profiles import Profile
from sdaccel.export.tensorrt_runtime import Gpu
from sdaccel.export.tensorrt_session import TensorRtEngine
from sdaccel.export.tensorrt_store import PLAN, EngineStore

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PROFILE = Profile("4x4", {"x": ((1, 4), (2, 4), (2, 4))}, {})
LARGER = Profile("8x8", {"x": ((3, 4), (8, 4), (8, 4))}, {})


class House:
    """A folder with an export, the user's cache, and how engines were come by."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.shipped = EngineStore(root / "shipped")
        self.cache = EngineStore(root / "cache")

    def wanted(self, folder: str = "one", gpu: str = "One", **recipe: Any) -> Wanted:
        entry = export(self.root / folder, weight={"one": 1.0}.get(folder, 2.0))
        profiles = recipe.pop("profiles", (PROFILE,))
        path = self.root / folder / entry.file
        return Wanted("net", path, entry, Recipe(profiles, **recipe), Gpu(gpu, (9, 0)))

    def open(self, *args: Any, **options: Any) -> Opened:
        return open_engine(self.wanted(*args, **options), self.shipped, self.cache)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    fake_tensorrt.install(monkeypatch)
    return House(tmp_path)


def run(opened: Opened, wanted: Wanted, batch: int = 2) -> torch.Tensor:
    cpu = torch.device("cpu")
    engine = TensorRtEngine(wanted.entry, opened.engine, wanted.recipe.profiles, cpu)
    return engine.run({"x": torch.ones(batch, 4)})["out"]


def test_an_engine_is_built_once_and_loaded_afterwards(house: House) -> None:
    first, second = house.open(), house.open()
    assert (first.how, second.how) == ("built", "loaded")
    assert first.plan_bytes == second.plan_bytes > 0
    assert run(second, house.wanted()).eq(4 * 1 + 3).all()
    assert len(names_of(house.cache.folder)) == 1


def test_other_weights_are_refitted_and_compute(house: House) -> None:
    house.open()
    found = house.open("two")
    assert found.how == "refitted"
    assert run(found, house.wanted("two")).eq(4 * 2 + 3).all()
    assert len(names_of(house.cache.folder)) == 1, "what a refit makes is not kept again"
    assert run(house.open(), house.wanted()).eq(4 * 1 + 3).all()


def test_without_refit_other_weights_are_built(house: House) -> None:
    house.open(refit=False)
    found = house.open("two", refit=False)
    assert found.how == "built"
    assert run(found, house.wanted("two")).eq(4 * 2 + 3).all()


@pytest.mark.parametrize("change", [{"profiles": (LARGER,)}, {"gpu": "Two"}, {"level": 5}])
def test_what_differs_otherwise_is_built(house: House, change: dict[str, Any]) -> None:
    house.open()
    assert house.open(**change).how == "built"


def test_another_version_of_tensorrt_builds_its_own(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.open()
    fake_tensorrt.install(monkeypatch, "11.4.0.106")
    assert house.open().how == "built"


def test_a_refit_that_fails_leads_to_a_build_and_says_so(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.open()

    def reject(self: Any, model: str) -> bool:
        self._errors.append(fake_tensorrt.ParserError("no weights for w"))
        return False

    monkeypatch.setattr(fake_tensorrt.OnnxParserRefitter, "refit_from_file", reject)
    found = house.open("two")
    assert found.how == "built"
    assert found.notes == (
        "net: the engine can't be refitted (no weights for w): another is built",
    )
    assert run(found, house.wanted("two")).eq(4 * 2 + 3).all()


def test_a_refit_that_lacks_a_weight_leads_to_a_build(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.open()
    monkeypatch.setattr(fake_tensorrt.Refitter, "get_missing_weights", lambda _: ["w"])
    found = house.open("two")
    assert (found.how, "['w']" in found.notes[0]) == ("built", True)


@pytest.mark.parametrize("other", ["one", "two"])
def test_a_damaged_engine_of_the_cache_is_replaced(house: House, other: str) -> None:
    house.open()
    (place,) = house.cache.all()
    (place.folder / PLAN).write_bytes(b"changed")
    found = house.open(other)
    assert found.how == "built"
    assert "truncated or was changed" in found.notes[0]
    assert house.open(other).how == "loaded"
    assert len(names_of(house.cache.folder)) == 1


def test_a_plan_that_tensorrt_does_not_load_is_replaced(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.open()
    load, refused = fake_tensorrt.Runtime.deserialize_cuda_engine, []

    def once(self: Any, serialized_engine: Any) -> Any:
        refused.append(True)
        return load(self, serialized_engine if len(refused) > 1 else b"of another driver")

    monkeypatch.setattr(fake_tensorrt.Runtime, "deserialize_cuda_engine", once)
    found = house.open()
    assert found.how == "built"
    assert "magicTag" in found.notes[0]


def test_engines_beside_the_graphs_come_first(house: House) -> None:
    build_engine(house.wanted(), house.shipped)
    assert house.open().how == "loaded"
    assert house.open("two").how == "refitted"
    assert not house.cache.folder.exists()


def test_a_tampered_engine_beside_the_graphs_is_refused(house: House) -> None:
    build_engine(house.wanted(), house.shipped)
    (kept,) = house.shipped.all()
    (kept.folder / PLAN).write_bytes(b"changed")
    with pytest.raises(ExportError, match="is another: export the pipeline again"):
        house.open()
    assert house.shipped.all() == [kept], "nobody else's files are taken away"


def test_it_is_said_why_an_engine_beside_the_graphs_does_not_serve(house: House) -> None:
    build_engine(house.wanted(gpu="Two"), house.shipped)
    found = house.open()
    assert found.how == "built"
    assert found.notes == (f"net: the engine in {house.shipped.folder} is for gpu Two",)


def test_what_was_timed_serves_the_next_build_on_the_same_gpu(house: House) -> None:
    import sys

    house.open()
    house.open(profiles=(LARGER,))
    house.open(gpu="Two")
    package: Any = sys.modules["tensorrt"]
    given = [each[1] for each in package.calls if each[0] == "set_timing_cache"]
    assert given == [b"", b"+", b""]


def test_a_disk_without_room_is_told_before_anything_is_built(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    import sys
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(ExportError, match="make room"):
        house.open()
    package: Any = sys.modules["tensorrt"]
    assert package.calls == []
    assert not house.cache.folder.exists()


def test_each_call_takes_the_profile_of_its_size(house: House) -> None:
    wanted = house.wanted(profiles=(PROFILE, LARGER))
    found = open_engine(wanted, house.shipped, house.cache)
    cpu = torch.device("cpu")
    engine = TensorRtEngine(wanted.entry, found.engine, wanted.recipe.profiles, cpu)
    for batch, profile in ((2, 0), (5, 1), (1, 0)):
        out = engine.run({"x": torch.full((batch, 4), float(batch))})["out"]
        assert out.shape == (batch, 1, 8)
        assert out.eq(4 * batch + 3).all()
        assert engine.context._profile == profile
    with pytest.raises(UnfitCallError, match="for 4x4, 8x8, and 'x' is 9x4, not 1x4 to 2x4"):
        engine.run({"x": torch.ones(9, 4)})


def test_outputs_are_new_tensors_at_each_call(house: House) -> None:
    wanted = house.wanted()
    cpu = torch.device("cpu")
    engine = TensorRtEngine(wanted.entry, house.open().engine, wanted.recipe.profiles, cpu)
    first = engine.run({"x": torch.ones(2, 4)})["out"]
    engine.run({"x": torch.zeros(2, 4)})
    assert first.eq(7).all()
    assert engine.workspace == 5_000_000


def test_a_gpu_without_room_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    found, wanted = house.open(), house.wanted()
    monkeypatch.setattr(fake_tensorrt.ICudaEngine, "create_execution_context", lambda _: None)
    with pytest.raises(ExportError, match=r"no room for 0.0 GB of activations: name smaller"):
        run(found, wanted)
