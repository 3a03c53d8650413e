"""What stands in a row beside its times."""

from __future__ import annotations

import torch

from sdaccel.benchmarks.families import cast, families
from sdaccel.benchmarks.family_pipeline import pipeline_of
from sdaccel.benchmarks.figures import Figures
from sdaccel.benchmarks.rows import Row
from sdaccel.benchmarks.rungs import Opened
from sdaccel.benchmarks.workloads import workload


def test_a_rung_in_16_bit_is_called_so_though_a_table_stays_in_fp32() -> None:
    (wan,) = families(["Wan 2.1"])
    pipe = pipeline_of(wan)
    cast(pipe.denoiser, torch.bfloat16)
    assert next(pipe.denoiser.parameters()).dtype == torch.float32
    row = Row("wan2.1-1.3b", "stock-16bit", "stock", "lower precision", "forward")
    Figures(workload("wan2.1-1.3b", quick=True), 0, str).describe(row, Opened(pipe))
    assert row.dtype == "bfloat16"
