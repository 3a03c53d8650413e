"""Operators watched: their FLOPs, their bytes, and what bounds them."""

from __future__ import annotations

import pytest
import torch

from sdaccel.benchmarks.operations import Operation, profile

CPU = torch.device("cpu")


def test_flops_and_bytes_of_operators_are_counted_by_shape() -> None:
    left, right, wide = torch.randn(8, 16), torch.randn(16, 32), torch.randn(8, 32)

    def call() -> None:
        for _ in range(3):
            left.mm(right).add_(wide)

    found = {each.name: each for each in profile(call, CPU).operations}
    product, addition = found["mm"], found["add_.Tensor"]
    assert set(found) == {"mm", "add_.Tensor"}
    assert product.calls == addition.calls == 3
    assert product.shapes == ((8, 16), (16, 32))
    assert product.flops == 3 * 2 * 8 * 16 * 32
    assert product.bytes == 3 * 4 * (8 * 16 + 16 * 32 + 8 * 32)
    assert addition.flops == 0
    assert addition.bytes == 3 * 4 * 3 * 8 * 32
    assert product.seconds > 0
    assert addition.seconds > 0


def test_attention_on_a_cpu_has_its_two_products_and_views_have_nothing() -> None:
    query = torch.randn(1, 2, 16, 8)

    def call() -> None:
        attended = torch.nn.functional.scaled_dot_product_attention(query, query, query)
        attended.transpose(1, 2).reshape(1, 16, 16)

    operations = profile(call, CPU).operations
    (attention,) = [each for each in operations if "attention" in each.name]
    assert attention.flops == 2 * 2 * 2 * 16 * 8 * 16
    assert not any(each.name.startswith(("transpose", "view")) for each in operations)


def test_an_expanded_input_holds_no_more_than_its_memory() -> None:
    scale, large = torch.randn(1, 1), torch.randn(64, 64)
    (found,) = profile(lambda: large * scale.expand(64, 64), CPU).operations
    assert found.bytes == 4 * (2 * 64 * 64 + 1)


@pytest.mark.parametrize(("flops", "bound"), [(1e9, "compute"), (1e3, "memory")])
def test_what_takes_longer_at_the_ceilings_bounds_an_operator(flops: float, bound: str) -> None:
    made = Operation("mm", (), "float32", 1, flops, 1e6, 0.01, 1e12, 1e10)
    assert made.bound == bound
    assert made.matmul_share == pytest.approx(flops / 0.01 / 1e12)
    assert made.copy_share == pytest.approx(0.01)
    assert made.to_dict()["bound"] == bound


def test_all_shapes_of_an_operator_make_one_line() -> None:
    small, large = torch.randn(4, 4), torch.randn(64, 64)

    def call() -> None:
        small.mm(small)
        large.mm(large)

    found = profile(call, CPU)
    assert len(found.operations) == 2
    (merged,) = found.by_operator()
    assert merged.calls == 2
    assert merged.flops == 2 * (4**3 + 64**3)
    assert sum(found.bound_seconds().values()) == pytest.approx(merged.seconds)
