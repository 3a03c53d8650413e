"""The build: exactly what TensorRT is told, by its documented API and by its sister's own.

TensorRT's wheels come from NVIDIA's index, and its builder wants a driver. TensorRT for RTX has the
same API, parses and builds without a GPU, and comes from PyPI: where it is installed, it reads our
graphs, and holds the stand-in to its signatures.
"""

from __future__ import annotations

import enum
import inspect
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_tensorrt
import pytest
from small_graph import graph

from sdaccel.errors import ExportError
from sdaccel.export import tensorrt_runtime
from sdaccel.export.manifest import Manifest
from sdaccel.export.tensorrt_build import build, configure, made, network_flags, parse
from sdaccel.export.tensorrt_keys import Recipe
from sdaccel.export.tensorrt_profiles import Profile, Request, Size, profiles_of

pytest.importorskip("onnx")

SMALL = Profile("4x4", {"x": ((1, 4), (2, 4), (2, 4))}, {})
LARGE = Profile("8x8", {"x": ((1, 4), (8, 4), (8, 4))}, {})


class Bars:
    """Progress bars that keep what they were told."""

    def __init__(self, interrupted: bool = False) -> None:
        self.told: list[Any] = []
        self.interrupted = interrupted

    def __call__(self, desc: str, total: int, **options: Any) -> Any:
        self.told.append((desc, total))

        def update(steps: int) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.told.append((desc, f"+{steps}"))

        return SimpleNamespace(update=update, close=lambda: self.told.append((desc, "closed")))


def test_tensorrt_10_is_asked_for_strong_types_and_told_of_each_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = fake_tensorrt.install(monkeypatch, "10.13.3.9")
    build(graph(tmp_path / "model.onnx"), Recipe((SMALL, LARGE), level=4), b"known", Bars())
    assert package.calls == [
        ("create_network", 2),
        ("clear_flag", "TF32"),
        ("set_flag", "REFIT"),
        ("set_shape", "x", (1, 4), (2, 4), (2, 4)),
        ("add_optimization_profile",),
        ("set_shape", "x", (1, 4), (8, 4), (8, 4)),
        ("add_optimization_profile",),
        ("set_timing_cache", b"known", False),
        ("build_serialized_network", 4),
    ]


def test_tensorrt_11_has_strong_types_without_a_flag(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = fake_tensorrt.install(monkeypatch, "11.4.0.106")
    path = graph(tmp_path / "model.onnx")
    build(path, Recipe((SMALL,), refit=False, tf32=True), bars=Bars())
    assert package.calls[:3] == [
        ("create_network", 0),
        ("set_flag", "TF32"),
        ("set_shape", "x", (1, 4), (2, 4), (2, 4)),
    ]


def test_a_number_that_shapes_depend_on_gets_its_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = fake_tensorrt.install(monkeypatch)
    profile = Profile("8x8", {"x": ((1, 4), (2, 4), (2, 4)), "frames": ((),) * 3}, {"frames": 5})
    path = graph(tmp_path / "model.onnx", frames=True)
    build(path, Recipe((profile,)), bars=Bars())
    assert ("set_shape_input", "frames", [5], [5], [5]) in package.calls


def test_a_build_gives_a_plan_and_what_was_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = fake_tensorrt.install(monkeypatch)
    bars = Bars()
    found = build(graph(tmp_path / "model.onnx"), Recipe((SMALL,)), b"known", bars)
    assert found.timings == b"known+"
    log = tensorrt_runtime.new_log(package)
    assert package.Runtime(log).deserialize_cuda_engine(found.plan) is not None
    assert bars.told == [
        ("Building engine", 2),
        ("Timing tactics", 1),
        ("Timing tactics", "+1"),
        ("Timing tactics", "closed"),
        ("Building engine", "+1"),
        ("Building engine", "closed"),
    ], "the last one, which TensorRT left open, is closed"


def test_timings_that_can_not_be_read_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_tensorrt.install(monkeypatch)
    path = graph(tmp_path / "model.onnx")
    assert build(path, Recipe((SMALL,)), b"damaged", Bars()).timings == b"+"


def test_a_build_can_be_interrupted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_tensorrt.install(monkeypatch)
    bars = Bars(interrupted=True)
    with pytest.raises(KeyboardInterrupt):
        build(graph(tmp_path / "model.onnx"), Recipe((SMALL,)), bars=bars)
    assert bars.told.count(("Building engine", "closed")) == 1


def test_what_can_not_be_built_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = fake_tensorrt.install(monkeypatch)
    path = graph(tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"can't build .* \(x has no profile\): name smaller"):
        build(path, Recipe((Profile("8x8", {}, {}),)), bars=Bars())
    with pytest.raises(ExportError, match="The graph has no input 'y': export"):
        build(path, Recipe((Profile("8x8", {"y": ((1,),) * 3}, {}),)), bars=Bars())
    (tmp_path / "none.onnx").write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"can't read .*none.onnx \(In node -1"):
        build(tmp_path / "none.onnx", Recipe((SMALL,)), bars=Bars())

    def no_driver(log: Any) -> Any:
        log.log(log.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(package, "Builder", no_driver)
    with pytest.raises(ExportError, match=r"can't start here \(CUDA init.* 35\): look whether"):
        build(path, Recipe((SMALL,)))


def test_a_missing_or_an_old_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tensorrt.install(monkeypatch, "8.6.1")
    with pytest.raises(ExportError, match=r"TensorRT 8.6.1 is too old, 10.3 is the oldest"):
        tensorrt_runtime.runtime()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ExportError, match=r"pip install sdaccel\[tensorrt\]"):
        tensorrt_runtime.runtime()


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Any:
    """TensorRT for RTX under TensorRT's name."""
    found = pytest.importorskip(
        "tensorrt_rtx",
        reason="TensorRT's own parser and builder, without a GPU: pip install tensorrt-rtx-cu12",
    )
    package = fake_tensorrt.package("10.13.3.9")
    for name in dir(found):
        if not name.startswith("__"):
            setattr(package, name, getattr(found, name))
    monkeypatch.setitem(sys.modules, "tensorrt", package)
    return package


def test_the_package_parses_our_graphs_and_takes_their_profiles(real: Any, exported: Path) -> None:
    import tiny

    pipe, manifest = tiny.stable_diffusion(), Manifest.read(exported)
    request = Request((Size(16, 16), Size(32, 24)), 1, 16)
    modules = {"unet": pipe.unet, "vae_decoder": pipe.vae, "text_encoder": pipe.text_encoder}
    for name, entry in manifest.components.items():
        profiles = profiles_of(name, modules[name], entry, pipe, request)
        log = tensorrt_runtime.new_log(real)
        builder = made(real, log)
        network = builder.create_network(network_flags(real))
        parser = parse(real, network, exported / entry.file, log)
        config = configure(real, builder, network, Recipe(profiles))
        assert config.num_optimization_profiles == len(profiles)
        assert {network.get_input(i).name for i in range(network.num_inputs)} == {
            each.name for each in entry.inputs
        }
        assert (parser.num_errors, log.errors) == (0, [])


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_the_package_builds_an_engine_of_our_graph(real: Any, tmp_path: Path) -> None:
    bars = Bars()
    found = build(graph(tmp_path / "model.onnx"), Recipe((SMALL,), refit=False), bars=bars)
    assert memoryview(found.plan).cast("B").nbytes > 1000
    assert bars.told[0][0] == "Building engine"
    assert sum(told == "closed" for _, told in bars.told) == sum(
        isinstance(told, int) for _, told in bars.told
    )


def test_what_the_package_s_parser_can_not_read_is_named(real: Any, tmp_path: Path) -> None:
    path = graph(tmp_path / "model.onnx", operator="Nonsense")
    with pytest.raises(ExportError, match=r"TensorRT can't read .*Nonsense"):
        build(path, Recipe((SMALL,)))


@pytest.mark.parametrize("kind", fake_tensorrt.CLASSES, ids=lambda kind: kind.__name__)
def test_the_stand_in_has_the_package_s_names_and_arguments(real: Any, kind: Any) -> None:
    theirs = real.ILogger.Severity if kind.__name__ == "Severity" else getattr(real, kind.__name__)
    if issubclass(kind, enum.Enum):
        assert all(hasattr(theirs, each.name) for each in kind)
        return
    own = {key: value for key, value in vars(kind).items() if not key.startswith("_")}
    for name, value in own.items():
        if name in ("settable", "Severity"):
            continue
        assert hasattr(theirs, name), f"{kind.__name__}.{name}"
        if inspect.isfunction(value):
            assert _arguments(value) in _documented(getattr(theirs, name)), name
    for name in getattr(kind, "settable", ()):
        assert isinstance(getattr(theirs, name), property)
        assert getattr(theirs, name).fset is not None
    if "__init__" in vars(kind) and "Initialize self" not in str(theirs.__init__.__doc__):
        assert _arguments(kind.__init__) in _documented(theirs.__init__)


def _arguments(function: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)[1:]


def _documented(function: Any) -> list[tuple[str, ...]]:
    """The names of the arguments of each signature in a docstring, without those with defaults."""
    found = []
    for line in str(function.__doc__).splitlines():
        signature = re.match(r"(?:\d+\. )?\w+\(self: [\w.:]+(?:, (.*))?\) -> ", line)
        if signature is not None:
            pairs = re.findall(r"(?:^|, )(\w+): ([^:]*?)(?=, \w+: |$)", signature[1] or "")
            names = tuple(name for name, _ in pairs)
            given = tuple(name for name, kind in pairs if " = " not in kind)
            found += [names, given]
    return found
