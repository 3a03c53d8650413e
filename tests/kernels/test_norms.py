"""layer_norm and rms_norm: what torch.nn.functional gives, by norm_modulate's kernel."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DTYPES, assert_near, assert_traceable, kernel_runs, noise

from sdaccel.errors import ArgumentError
from sdaccel.kernels.norms import layer_norm, rms_norm

F = torch.nn.functional


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_is_torch_s(dtype: torch.dtype) -> None:
    x, weight, bias = noise(2, 5, 40), noise(40, seed=1), noise(40, seed=2)
    x, weight, bias = (each.to(dtype) for each in (x, weight, bias))
    with kernel_runs("norm_modulate", times=3):
        found = [layer_norm(x), layer_norm(x, weight), layer_norm(x, weight, bias, 1e-2)]
    wide = [each.double() for each in (x, weight, bias)]
    assert_near(found[0], F.layer_norm(wide[0], (40,)))
    assert_near(found[1], F.layer_norm(wide[0], (40,), wide[1]))
    assert_near(found[2], F.layer_norm(*wide[:1], (40,), *wide[1:], 1e-2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_is_torch_s(dtype: torch.dtype) -> None:
    x, weight = 1e-2 * noise(2, 5, 40), noise(40, seed=1)
    x, weight = x.to(dtype), weight.to(dtype)
    with kernel_runs("norm_modulate", times=2):
        found = [rms_norm(x, weight), rms_norm(x, weight, 1e-2)]
    eps = torch.finfo(dtype).eps
    assert_near(found[0], F.rms_norm(x.double(), (40,), weight.double(), eps))
    assert_near(found[1], F.rms_norm(x.double(), (40,), weight.double(), 1e-2))


def test_they_compile_into_one_graph() -> None:
    assert_traceable(layer_norm, noise(2, 3, 32), noise(32, seed=1))
    assert_traceable(rms_norm, noise(2, 3, 32), noise(32, seed=1))


def test_bad_input_is_named() -> None:
    with pytest.raises(ArgumentError, match="weight has shape"):
        layer_norm(noise(2, 3, 8), noise(9))
    with pytest.raises(ArgumentError, match="hidden_states is fp16, bf16 or fp32, not int64"):
        rms_norm(torch.ones(2, 3, dtype=torch.int64))
