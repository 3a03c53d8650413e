"""Group norm in C++ on a CPU: as near to the truth as rounding lets it, in both layouts."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from kernel_checks import no_compiler, noise, relative_error

from sdaccel.kernels import group_norm_native as module
from sdaccel.kernels.group_norm_native import group_norm_native, unavailable
from sdaccel.kernels.group_norm_silu import group_norm_silu, group_norm_silu_reference
from sdaccel.kernels.operator import UnsupportedError, operators

BOUNDS = {torch.float32: 3e-7, torch.bfloat16: 3e-3, torch.float16: 4e-4}
LAYOUTS = ("contiguous", "channels-last")


@pytest.fixture(autouse=True)
def available() -> None:
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def machine_code(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The op as it is where no interpreter takes its place, and what has run."""
    op = operators()["group_norm_silu"]
    monkeypatch.setattr(op, "_interpreted", False)
    monkeypatch.setattr(op, "runs", Counter())
    return op.runs


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    return x if layout == "contiguous" else x.movedim(1, -1).contiguous().movedim(-1, 1)


def truth(x: Any, groups: int, weight: Any, bias: Any, eps: float, silu: bool, add: Any) -> Any:
    """In float64."""
    wide = [None if each is None else each.double() for each in (x, weight, bias, add)]
    return group_norm_silu_reference(wide[0], groups, wide[1], wide[2], eps, silu, wide[3])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((2, 64, 17, 19), 32),
        ((1, 20, 5, 3), 5),
        ((3, 7, 1, 1), 7),
        ((1, 33, 40, 41), 1),
        ((2, 32, 3, 6, 5), 8),
        ((1, 48, 300), 16),
    ],
    ids=str,
)
def test_it_is_the_truth_but_for_rounding(
    shape: tuple[int, ...], groups: int, dtype: torch.dtype, layout: str
) -> None:
    x = laid_out(noise(*shape, dtype=dtype) * 2 + 1, layout)
    weight, bias = (noise(shape[1], dtype=dtype, seed=seed) for seed in (1, 2))
    add = noise(*shape[:2], dtype=dtype, seed=3)
    for given in ((weight, bias, 1e-5, True, add), (None, None, 1e-6, False, None)):
        found = group_norm_native(x, groups, *given)
        assert found.dtype == dtype
        assert found.stride() == x.stride()
        assert relative_error(found, truth(x, groups, *given)) <= BOUNDS[dtype]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_mean_far_from_zero_takes_no_digits(layout: str) -> None:
    x = laid_out(noise(1, 32, 64, 64) + 1000, layout)
    found = group_norm_native(x, 8, None, None, 1e-5, False, None)
    stock = torch.nn.functional.group_norm(x, 8)
    expected = truth(x, 8, None, None, 1e-5, False, None)
    assert relative_error(found, expected) <= min(1e-6, relative_error(stock, expected))


@pytest.mark.parametrize("dtype", BOUNDS)
def test_silu_far_from_zero_is_the_identity_or_nothing(dtype: torch.dtype) -> None:
    x = torch.tensor([-1.0, 1.0], dtype=dtype).view(1, 2, 1).repeat(1, 1, 8)
    weight = torch.full((2,), 3e4, dtype=dtype)
    found = group_norm_native(x, 1, weight, None, 0.0, True, None)
    assert torch.equal(found[0, 0], torch.zeros(8, dtype=dtype))
    assert torch.equal(found[0, 1], weight[1].expand(8))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_so_in_its_own_group(
    value: float, dtype: torch.dtype, layout: str
) -> None:
    x = noise(2, 8, 6, 6, dtype=dtype)
    x[1, 5, 2, 2] = value
    found = group_norm_native(laid_out(x, layout), 4, None, None, 1e-5, True, None)
    assert found[1, 4:6].isnan().all()
    assert found[0].isfinite().all()
    assert found[1, [0, 1, 2, 3, 6, 7]].isfinite().all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_threads_give_the_same_bits(layout: str) -> None:
    x = laid_out(noise(1, 64, 70, 70), layout)
    alone = group_norm_native(x, 8, None, None, 1e-5, True, None)
    torch.set_num_threads(2)
    try:
        assert torch.equal(group_norm_native(x, 8, None, None, 1e-5, True, None), alone)
    finally:
        torch.set_num_threads(1)


def test_weights_may_be_of_fp32_and_are_of_no_other_dtype() -> None:
    x, weight = noise(1, 8, 9, dtype=torch.bfloat16), noise(8, seed=1)
    found = group_norm_native(x, 2, weight, weight, 1e-5, True, None)
    expected = truth(x, 2, weight, weight, 1e-5, True, None)
    assert relative_error(found, expected) <= BOUNDS[torch.bfloat16]
    for wrong in (weight.half(), weight.bfloat16()):
        with pytest.raises(UnsupportedError, match="other dtypes"):
            group_norm_native(x, 2, weight, wrong, 1e-5, True, None)
    with pytest.raises(UnsupportedError, match="float64 on a CPU"):
        group_norm_native(x.double(), 2, None, None, 1e-5, True, None)


def test_a_failed_build_is_a_reason_not_a_crash() -> None:
    with no_compiler(module) as reason:
        assert unavailable() == reason


def test_the_op_takes_it_on_a_cpu_whatever_the_strides(machine_code: Counter[str]) -> None:
    weight = noise(8, seed=1)
    for x in (noise(2, 8, 6, 6), noise(2, 8, 6, 6)[..., ::2], noise(2, 8, 0, 6)):
        found = group_norm_silu(x, 4, weight, weight)
        expected = truth(x, 4, weight, weight, 1e-5, True, None)
        assert found.shape == x.shape
        assert not x.numel() or relative_error(found, expected) <= BOUNDS[torch.float32]
    assert machine_code == {"native": 3}


def test_a_compiler_sees_one_node(machine_code: Counter[str]) -> None:
    weight = noise(8, seed=1)

    def around(x: torch.Tensor) -> torch.Tensor:
        return group_norm_silu(x + 1, 4, weight, weight) * 2

    compiled = torch.compile(around, fullgraph=True, backend="aot_eager")
    x = laid_out(noise(2, 8, 6, 6), "channels-last")
    found = compiled(x)
    expected = 2 * truth(x + 1, 4, weight, weight, 1e-5, True, None)
    assert relative_error(found, expected) <= BOUNDS[torch.float32]
    assert machine_code == {"native": 1}
