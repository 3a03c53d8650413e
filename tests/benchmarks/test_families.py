"""The tiny families: each weight of theirs counts, and so does each sample and word."""

from __future__ import annotations

import pytest
import torch

from sdaccel.benchmarks.errors import BenchmarkError
from sdaccel.benchmarks.families import SIZES, cast, families, forward
from sdaccel.benchmarks.measure import EXACT_ERROR, relative_error

UNUSED = {
    "SD 3.5": ("transformer_blocks.1.attn.add_q_proj", "transformer_blocks.1.attn.norm_added_q"),
    "Mochi": ("transformer_blocks.1.attn1.norm_added_q",),
}
"""What the last block computes of the text, and drops."""


@pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")
@pytest.mark.parametrize("name", ["SD 3.5", "FLUX.2", "HunyuanVideo", "LTX", "Mochi", "Wan 2.1"])
def test_a_model_that_forgets_a_scale_or_a_bias_is_found_out(name: str) -> None:
    (family,) = families([name])
    model, inputs = family.build(), family.draw(SIZES[0], 0, torch.float32)
    truth = forward(model, inputs)
    found = {}
    for path, parameter in model.named_parameters():
        if parameter.dim() == 1 and not path.startswith(UNUSED.get(name, "-")):
            kept = parameter.data
            parameter.data = torch.full_like(kept, float(path.endswith("weight")))
            found[path] = relative_error(forward(model, inputs), truth)
            parameter.data = kept
    # the same for every key, a bias changes no attention
    weak = {key for key, change in found.items() if change < 5 * EXACT_ERROR}
    assert {key for key in weak if not key.endswith("k.bias")} == set()
    assert len(found) > 10


def test_a_family_is_the_same_for_a_seed_and_leaves_torch_s_own_randomness_alone() -> None:
    (family,) = families(["PixArt"])
    before = torch.get_rng_state()
    one, same, other = family.build(), family.build(), family.build(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    inputs = family.draw(SIZES[0], 0, torch.float32)
    assert torch.equal(forward(one, inputs), forward(same, inputs))
    assert not torch.allclose(forward(one, inputs), forward(other, inputs))
    assert not torch.equal(
        forward(one, inputs), forward(one, family.draw(SIZES[0], 1, torch.float32))
    )


def test_a_cast_leaves_in_fp32_what_diffusers_keeps_there() -> None:
    (family,) = families(["Wan 2.1"])
    model = family.build()
    cast(model, torch.bfloat16)
    block = model.blocks[0]
    assert block.attn1.to_q.weight.dtype == torch.bfloat16
    assert block.norm2.weight.dtype == block.scale_shift_table.dtype == torch.float32
    assert torch.isfinite(forward(model, family.draw(SIZES[0], 0, torch.bfloat16))).all()


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(BenchmarkError, match="There is no family 'SD 9': choose from SD"):
        list(families(["SD 9"]))
