"""What the wheel holds, and that it lives beside PyPI's package `kernels`."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "sdaccel": "sdaccel",
    "kernels": "sdaccel/kernels",
    "pipelines": "sdaccel/pipelines",
    "benchmarks": "sdaccel/benchmarks",
}
PACKAGED = (".py", ".cpp", ".h", ".html", ".css", ".js")
MEGABYTE = 10**6


def run(*command: object, **options: object) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree, where no earlier build has left anything."""
    copy, output = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for folder in FOLDERS:
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", output)
    run(sys.executable, "-m", "pip", "wheel", *options, copy, cwd=output)
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, int]:
    """The files in the wheel, with their sizes in bytes."""
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.file_size for info in archive.infolist()}


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for site packages with the wheel, and nothing else, installed in it."""
    folder = tmp_path_factory.mktemp("site")
    options = ("--no-deps", "--no-index", "--no-compile", "--target", folder)
    run(sys.executable, "-m", "pip", "install", *options, wheel, cwd=folder)
    return folder


def python(code: str, *path: Path) -> str:
    """Run code from the checkout's root, with these folders ahead of the site packages.

    Python 3.10 has no `PYTHONSAFEPATH`, so there the working directory is the first folder.
    """
    folders = os.pathsep.join(str(each) for each in path)
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": folders}
    here = ROOT if sys.version_info >= (3, 11) else path[0]
    return run(sys.executable, "-c", code, cwd=here, env=environment)


def test_nothing_but_sdaccel_lands_at_the_top(contents: dict[str, int]) -> None:
    tops = {name.split("/")[0] for name in contents}
    assert {re.sub(r"-.*\.dist-info", ".dist-info", top) for top in tops} == {
        "sdaccel",
        "sdaccel.dist-info",
    }


def test_every_module_and_every_weight_is_inside(contents: dict[str, int]) -> None:
    expected = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and (path.suffix in PACKAGED or "weights" in path.parts)
        if not {"__pycache__", "results"} & set(path.parts)
    }
    assert expected - contents.keys() == set()
    assert "sdaccel/py.typed" in contents


def test_nothing_else_is_inside(contents: dict[str, int]) -> None:
    code = {name for name in contents if ".dist-info/" not in name}
    sources = (".py", "/py.typed", "_native.cpp", "_native_kinds.h", "/native_vectors.h")
    others = {name for name in code if not name.endswith(sources)}
    others = {name for name in others if not name.startswith("sdaccel/shapes/weights/")}
    reporting = {f"sdaccel/benchmarks/reporting/page.{kind}" for kind in ("html", "css", "js")}
    folder = "sdaccel/passes/calibrations"
    calibrations = {f"{folder}/{path.name}" for path in (ROOT / folder).glob("shapes-*.json")}
    assert {f"{folder}/shapes-{name}.json" for name in ("unet", "dit")} <= calibrations
    assert others == {"sdaccel/benchmarks/results.schema.json", *reporting, *calibrations}


def test_the_wheel_takes_at_most_95_megabytes(wheel: Path) -> None:
    assert wheel.stat().st_size <= 95 * MEGABYTE


def test_the_installed_wheel_imports_from_the_checkout(site: Path) -> None:
    code = """
import sdaccel, sdaccel.benchmarks, sdaccel.cli, sdaccel.kernels, sdaccel.pipelines, sdaccel.shapes
modules = sdaccel, sdaccel.benchmarks, sdaccel.kernels, sdaccel.pipelines
print(*[module.__file__ for module in modules], sep="\\n")
"""
    for file in python(code, site).splitlines():
        assert Path(file).is_relative_to(site)


def test_the_version_is_the_one_in_pyproject(site: Path) -> None:
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert stated is not None
    assert python("import sdaccel; print(sdaccel.__version__)", site) == stated[1]


def test_the_command_is_installed(site: Path) -> None:
    assert "generate" in python("import sys; from sdaccel.cli import main; main(['--help'])", site)
    assert (
        "sdaccel = sdaccel.cli:main" in next(site.glob("*.dist-info/entry_points.txt")).read_text()
    )


def test_the_package_named_kernels_stays_importable(site: Path, tmp_path: Path) -> None:
    other = tmp_path / "kernels"
    other.mkdir()
    (other / "__init__.py").write_text("__version__ = '0.0.1+stand.in'\n")
    code = "import sdaccel.kernels, kernels; print(kernels.__version__, sdaccel.kernels.__name__)"
    for path in ([site, tmp_path], [tmp_path, site]):
        assert python(code, *path) == "0.0.1+stand.in sdaccel.kernels"


def test_no_folder_of_the_checkout_passes_for_the_package_named_kernels() -> None:
    spec = importlib.util.find_spec("kernels")
    places = [*(spec.submodule_search_locations or [])] if spec else []
    assert not [place for place in places if Path(place).is_relative_to(ROOT / "kernels")]
    assert not [place for place in places if Path(place).is_relative_to(ROOT / "tests")]
