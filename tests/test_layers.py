"""The imports run one way, and `import sdaccel` stays light: read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "sdaccel": "sdaccel",
    "sdaccel.kernels": "kernels",
    "sdaccel.pipelines": "pipelines",
    "sdaccel.benchmarks": "benchmarks",
}
# From the top to the ground: a module imports from its own line and those below.
LAYERS = (
    ("cli", "benchmarks"),
    ("sdaccel", "pipelines", "planning"),
    ("cold_start",),
    ("accelerate",),
    ("plan",),
    ("passes", "export"),
    ("target", "schedulers", "guard", "clock", "patch", "sharing", "report", "quality", "video"),
    ("kernels",),
    (
        "device",
        "machine",
        "known_gpus",
        "malloc",
        "mapped_file",
        "saved_folder",
        "compiled_artefacts",
    ),
    ("errors",),
)
LEVELS = {part: level for level, layer in enumerate(reversed(LAYERS)) for part in layer}
SHAPES_USERS = ("cli", "benchmarks", "pipelines", "planning")
HOSTS = ("diffusers", "transformers")
HOST_USERS = (
    *("target", "passes", "schedulers", "export", "pipelines", "shapes", "benchmarks"),
    "quality",  # for CLIP, which is transformers'
)
HEAVY = (*HOSTS, "torch", "triton", "accelerate", "safetensors", "PIL", "numpy", "rich", "imageio")
FORBIDDEN_NAMES = ("utils", "common", "misc")
MOST_LINES = 400


@dataclass(frozen=True)
class Import:
    """One import: from a module of the house, of an absolute name; `eager` at import time."""

    source: str
    target: str
    eager: bool

    def __str__(self) -> str:
        return f"{self.source} imports {self.target}"


def part_of(module: str) -> str:
    """`sdaccel.passes.base` is part of `passes`, and `sdaccel` stands for itself."""
    return ".".join(module.split(".")[1:2]) or "sdaccel"


def house() -> dict[str, str]:
    """The source of every module of the package, by its installed name."""
    sources = {}
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            inner = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join([package, *inner])
            sources[name] = path.read_text(encoding="utf-8")
    return sources


def imports_of(sources: Mapping[str, str]) -> list[Import]:
    """All imports of all modules, those inside functions and for type checkers included."""
    return [
        Import(name.removesuffix(".__init__"), target, eager)
        for name, source in sources.items()
        for node, eager in _import_nodes(ast.parse(source), True)
        for target in _targets(name, node, sources)
    ]


def _import_nodes(node: ast.AST, eager: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, eager
        deferred = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from _import_nodes(child, eager and not deferred and not typing)


def _targets(name: str, node: ast.AST, sources: Mapping[str, str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert isinstance(node, ast.ImportFrom)
    above = name.split(".")[: -node.level] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    inner = {alias.name: f"{base}.{alias.name}" for alias in node.names}
    return [full if _is_module(full, sources) else base for full in inner.values()]


def _is_module(name: str, sources: Mapping[str, str]) -> bool:
    return name in sources or f"{name}.__init__" in sources


def wrong_way(sources: Mapping[str, str]) -> list[str]:
    """Imports that climb, reach `shapes` from below, or leave it; and modules without a place."""
    homeless = {part_of(name.removesuffix(".__init__")) for name in sources}
    homeless -= {"shapes", *LEVELS}
    found = [f"{part} has no line in LAYERS" for part in sorted(homeless)]
    for each in imports_of(sources):
        source, target = part_of(each.source), part_of(each.target)
        if not each.target.startswith("sdaccel") or source == target or homeless & {source, target}:
            continue
        if target == "shapes":
            allowed = source in SHAPES_USERS
        else:
            allowed = source != "shapes" and LEVELS[target] <= LEVELS[source]
        if not allowed:
            found.append(str(each))
    return found


def host_users(sources: Mapping[str, str]) -> list[str]:
    """Imports of diffusers or transformers by modules that must not know them."""
    return [
        str(each)
        for each in imports_of(sources)
        if each.target.split(".")[0] in HOSTS and part_of(each.source) not in HOST_USERS
    ]


def heavy_at_import(sources: Mapping[str, str], start: str = "sdaccel") -> list[str]:
    """Heavy packages that `import start` would load, by way of the house's own modules."""
    eager = [each for each in imports_of(sources) if each.eager]
    reached, waiting = set(), [start]
    while waiting:
        module = waiting.pop()
        reached.add(module)
        targets = [each.target for each in eager if each.source == module]
        waiting += [name for name in targets if _is_module(name, sources) and name not in reached]
    return [
        str(each) for each in eager if each.source in reached and each.target.split(".")[0] in HEAVY
    ]


def badly_named(sources: Mapping[str, str]) -> list[str]:
    """Modules named after nothing."""
    return [name for name in sources if name.split(".")[-1] in FORBIDDEN_NAMES]


def too_long(sources: Mapping[str, str]) -> list[str]:
    """Modules of more lines than one idea takes."""
    return [name for name, source in sources.items() if len(source.splitlines()) > MOST_LINES]


RULES = (wrong_way, host_users, heavy_at_import, badly_named, too_long)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule) -> None:
    assert rule(house()) == []


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (wrong_way, "sdaccel.patch", "from .passes import Pass"),
        (wrong_way, "sdaccel.patch", "def late():\n    from .passes import Pass"),
        (wrong_way, "sdaccel.clock", "from . import accelerate"),
        (wrong_way, "sdaccel.clock", "import sdaccel.accelerate"),
        (wrong_way, "sdaccel.passes.vae", "from ..plan import Plan"),
        (wrong_way, "sdaccel.passes.vae", "from .. import accelerate"),
        (wrong_way, "sdaccel.passes.__init__", "from ..cli import main"),
        (wrong_way, "sdaccel.kernels.gate", "from sdaccel.patch import Patch"),
        (wrong_way, "sdaccel.errors", "from .device import Device"),
        (wrong_way, "sdaccel.pipelines.names", "from ..cli import main"),
        (wrong_way, "sdaccel.accelerate", "from . import shapes"),
        (wrong_way, "sdaccel.shapes.weights", "from ..errors import SdaccelError"),
        (wrong_way, "sdaccel.shapes.weights", "from sdaccel.quality import psnr"),
        (wrong_way, "sdaccel.novelty", ""),
        (host_users, "sdaccel.kernels.gate", "import diffusers"),
        (host_users, "sdaccel.clock", "def late():\n    from diffusers.hooks import HookRegistry"),
        (host_users, "sdaccel.cli.generate", "import transformers.models"),
        (heavy_at_import, "sdaccel.__init__", "import torch"),
        (heavy_at_import, "sdaccel.patch", "from torch.nn import Module"),
        (heavy_at_import, "sdaccel.patch", "class A:\n    import diffusers"),
        (heavy_at_import, "sdaccel.patch", "try:\n    import torch\nexcept ImportError:\n    pass"),
        (badly_named, "sdaccel.passes.utils", ""),
        (badly_named, "sdaccel.common", ""),
        (badly_named, "sdaccel.cli.misc", ""),
        (too_long, "sdaccel.patch", "\n" * (MOST_LINES + 1)),
    ],
)
def test_the_rule_catches(rule, module: str, source: str) -> None:
    assert rule({**HOUSE, module: source}) != []
    assert rule(HOUSE) == []


HOUSE = {
    "sdaccel.__init__": "from .accelerate import accelerate\nfrom . import plan",
    "sdaccel.accelerate": "from .passes import Pass\nfrom .patch import Patch",
    "sdaccel.plan": "from .passes import Pass",
    "sdaccel.passes.__init__": "from .base import Pass",
    "sdaccel.passes.base": "def late():\n    import torch\n    from diffusers import X",
    "sdaccel.passes.vae": "from .base import Pass\nfrom ..kernels.gate import gate",
    "sdaccel.patch": "if TYPE_CHECKING:\n    import torch\nfrom .errors import PassError",
    "sdaccel.clock": "from .patch import Patch",
    "sdaccel.kernels.gate": "import torch\nimport triton\nfrom ..device import Device",
    "sdaccel.device": "",
    "sdaccel.errors": "",
    "sdaccel.pipelines.names": "from .. import shapes\nfrom ..accelerate import accelerate",
    "sdaccel.shapes.__init__": "from sdaccel.shapes.weights import load",
    "sdaccel.shapes.weights": "import torch",
    "sdaccel.cli.__init__": "from ..pipelines import names\nimport sdaccel",
    "sdaccel.cli.generate": "from ..accelerate import accelerate",
}


def test_import_sdaccel_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"import sys, sdaccel; print([name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
