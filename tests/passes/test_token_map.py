"""The matching of tokens, and what merging them and taking that back does."""

from __future__ import annotations

import pytest
import torch

from sdaccel.passes import token_map
from sdaccel.passes.token_map import TokenMap, destinations_first, grid_order, match, merged_away

CPU = torch.device("cpu")


def tokens(batch: int = 2, count: int = 64, width: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, count, width, generator=torch.Generator().manual_seed(seed))


def rows_of(found: TokenMap) -> torch.Tensor:
    """The row of each token, (B, N), counted within its sample."""
    batch = found.representatives.shape[0]
    return found.places.view(batch, -1) - found.merged * torch.arange(batch)[:, None]


def test_each_2x2_has_one_destination() -> None:
    order = grid_order(6, 4, CPU)
    assert order[:6].tolist() == [0, 2, 8, 10, 16, 18]
    assert sorted(order.tolist()) == list(range(24))


def test_a_table_of_positions_says_the_same_as_a_grid() -> None:
    rows, columns = torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij")
    order = destinations_first(rows.flatten().float(), columns.flatten().float())
    assert torch.equal(order, grid_order(5, 7, CPU))


@pytest.mark.parametrize(("count", "ratio"), [(64, 0.5), (64, 0.75), (35, 0.6), (7, 0.1)])
def test_a_row_is_the_mean_of_its_tokens(count: int, ratio: float) -> None:
    x = tokens(count=count)
    found = match(x, grid_order(1, count, CPU), ratio)
    assert found.merged == count - merged_away(count, ratio)
    assert found.tokens == count
    rows, merged = rows_of(found), found.merge(x)
    for sample in range(2):
        for row in range(found.merged):
            mean = x[sample, rows[sample] == row].mean(0)
            torch.testing.assert_close(merged[sample, row], mean)


def test_no_ratio_merges_a_destination_away() -> None:
    assert merged_away(64, 0.75) == 48
    assert merged_away(63, 0.75) == 47
    assert merged_away(5, 0.75) == 3


def test_the_most_similar_are_merged_into_what_they_are_similar_to() -> None:
    """By hand: one source is a copy of a destination, and only one is merged."""
    x = tokens(batch=1, count=16)
    order = grid_order(4, 4, CPU)
    source, destination = int(order[9]), int(order[2])
    x[0, source] = 3 * x[0, destination]
    found = match(x, order, 1 / 16)
    rows = rows_of(found)[0]
    assert rows[source] == rows[destination]
    assert found.representatives[0, rows[source]] == destination
    assert len(rows.unique()) == 15


def test_each_token_gets_its_row_back() -> None:
    x = tokens()
    found = match(x, grid_order(8, 8, CPU), 0.5)
    rows, given = rows_of(found), tokens(count=found.merged, seed=1)
    back = found.unmerge(given)
    for sample in range(2):
        assert torch.equal(back[sample], given[sample, rows[sample]])


def test_representatives_are_in_the_rows_that_they_stand_for() -> None:
    found = match(tokens(), grid_order(8, 8, CPU), 0.6)
    rows = rows_of(found).gather(1, found.representatives)
    assert torch.equal(rows, torch.arange(found.merged).expand(2, -1))


def test_samples_are_matched_by_themselves() -> None:
    x, order = tokens(batch=3), grid_order(8, 8, CPU)
    together = match(x, order, 0.5).merge(x)
    for sample in range(3):
        one = x[sample : sample + 1]
        assert torch.equal(together[sample], match(one, order, 0.5).merge(one)[0])


def test_sources_in_pieces_are_matched_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, order = tokens(), grid_order(8, 8, CPU)
    whole = match(x, order, 0.5)
    monkeypatch.setattr(token_map, "_SOURCES_AT_ONCE", 7)
    assert torch.equal(match(x, order, 0.5).places, whole.places)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_tokens_stay_16_bit(dtype: torch.dtype) -> None:
    x = tokens().to(dtype)
    found = match(x, grid_order(8, 8, CPU), 0.5)
    merged = found.merge(x)
    assert merged.dtype == dtype
    torch.testing.assert_close(merged.float(), found.merge(x.float()), atol=2e-2, rtol=2e-2)
