"""What the hoist command counts without weights is what the pass releases and keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from denoising import loop

import sdaccel
from sdaccel.benchmarks import hoist
from sdaccel.benchmarks.__main__ import main
from sdaccel.benchmarks.denoisers import DENOISERS
from sdaccel.benchmarks.families import SIZES, Family, cast, families
from sdaccel.benchmarks.family_pipeline import model_of, pipeline_of
from sdaccel.passes.hoist_release import is_away

TABLE = Path(__file__).parents[2] / "benchmarks" / "results" / "hoist-memory.md"
SCALED_DOWN: dict[str, dict[str, Any]] = {
    "flux-dev": {"num_attention_heads": 2, "joint_attention_dim": 24, "pooled_projection_dim": 20},
    "qwen-image": {"num_attention_heads": 2, "joint_attention_dim": 24},
    "sd3.5-large": {
        "num_attention_heads": 2,
        "caption_projection_dim": 32,
        "joint_attention_dim": 24,
        "pooled_projection_dim": 20,
        "pos_embed_max_size": 8,
        "sample_size": 8,
    },
}
"""Every layer of the real configurations but two of each kind, a head's and the text's width."""


def scaled_down(name: str) -> Family:
    (family,) = families([DENOISERS[name].family])
    return replace(family, config={**family.config, **SCALED_DOWN[name], "num_layers": 3})


@pytest.mark.parametrize("name", SCALED_DOWN)
def test_counted_bytes_are_those_of_a_real_generation(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdaccel.passes.hoist_holdings.gains_memory", lambda _: True)
    family = scaled_down(name)
    told = hoist.counted(name, family, SIZES[0])
    pipe = pipeline_of(family)
    model = model_of(pipe)
    cast(model, torch.bfloat16)
    sdaccel.accelerate(pipe, "none", hoist={"release": True})
    tables: list[int] = []
    from sdaccel.passes.hoist_table import Table

    def read(self: Table, *given: Any, stock: Any = Table.read) -> Any:
        tables.append(sum(each.nbytes for each in self.rows.values()))
        return stock(self, *given)

    monkeypatch.setattr(Table, "read", read)
    loop(pipe, family, steps=hoist.STEPS, dtype=torch.bfloat16)
    weights = list(model.parameters())
    assert told.weights == sum(each.nbytes for each in weights)
    assert told.released == sum(each.nbytes for each in weights if is_away(each)) > 0
    assert set(tables) == {told.tables}
    changed = sdaccel.report(pipe)["hoist"].changed
    assert told.timed == changed["denoiser modules from tables"]


def test_the_command_writes_the_table_that_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = scaled_down("flux-dev").config
    small = replace(DENOISERS["flux-dev"], config=config, size=SIZES[0])
    monkeypatch.setattr(hoist, "DENOISERS", {"small": small})
    path = tmp_path / "table.md"
    assert main(["hoist", "small", "--output", str(path)]) == 0
    printed = capsys.readouterr().out
    assert path.read_text(encoding="utf-8") == printed
    versions, _, heads, _, line = printed.splitlines()
    assert versions.startswith("diffusers ")
    assert heads.count("|") == line.count("|")
    assert line.startswith("| small | ")


def test_an_unknown_denoiser_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hoist", "SD 9"]) == 2
    assert "There is no denoiser 'SD 9'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "most"), [("flux-dev", 17.4), ("qwen-image", 27.3), ("sd3.5-large", 10.8)]
)
def test_the_committed_table_reaches_its_aims(name: str, most: float) -> None:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    (line,) = (each for each in lines if each.startswith(f"| {name} |"))
    _, weights, device, _, _, tables, *_ = line.strip("| ").split(" | ")
    assert float(device) <= most < float(weights)
    assert float(tables) < 150
