"""Fused models with what else diffusers does to a model, switched on before or after.

Each time the output is that of stock with the same feature, the feature shows, and fused code ran.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from features import FEATURES, lora
from sharding import shard

import sdaccel
from sdaccel.benchmarks.families import SIZES, families, forward
from sdaccel.benchmarks.family_pipeline import model_of, pipeline_of
from sdaccel.benchmarks.measure import EXACT_ERROR, EXACT_RATIO, relative_error
from sdaccel.shapes.training.parallel import launch

pytestmark = pytest.mark.usefixtures("plain_torch")

PLANS = {
    "fuse": {"fuse": True},
    "fuse and others": {
        "fuse": True,
        "no_ops": True,
        "memory_format": True,
        "attention": {"measure": False},
    },
}
SHOWS = 1e-3
"""A feature changes the output by at least this much."""


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("first", ["feature first", "fused first"])
@pytest.mark.parametrize("name", FEATURES)
def test_the_output_is_stock_s_with_the_same_feature(name: str, first: str, plan: str) -> None:
    feature = FEATURES[name]
    (family,) = families([feature.family])
    # on a pipe of its own: diffusers 0.39 keeps a list of hooks from before the feature was enabled
    without = feature.output(pipeline_of(family))
    stock = pipeline_of(family)
    feature.enable(model_of(stock))
    wanted = feature.output(stock, **feature.inputs())
    assert (relative_error(without, wanted) > SHOWS) == feature.changes

    pipe = pipeline_of(family)
    if first == "feature first":
        feature.enable(model_of(pipe))
        sdaccel.accelerate(pipe, "none", **PLANS[plan])
    else:
        sdaccel.accelerate(pipe, "none", **PLANS[plan])
        feature.enable(model_of(pipe))
    found = feature.output(pipe, **feature.inputs())
    assert feature.works(model_of(pipe))
    assert relative_error(found, wanted) <= EXACT_ERROR
    record = sdaccel.report(pipe)["fuse"]
    assert sum(record.ran.values()) > 0

    sdaccel.restore(pipe)
    assert feature.works(model_of(pipe))
    again = feature.output(pipe, **feature.inputs())
    assert relative_error(again, wanted) <= (EXACT_ERROR if feature.copies else 0)


@pytest.mark.parametrize("lora_first", [True, False])
def test_a_lora_in_bf16_is_as_near_the_truth_as_stock_s(lora_first: bool) -> None:
    (family,) = families(["FLUX.1"])
    exact, coarse = (family.draw(SIZES[0], 0, each) for each in (torch.float32, torch.bfloat16))
    stock = pipeline_of(family)
    lora(model_of(stock))
    truth = stock(**exact)
    model_of(stock).to(torch.bfloat16)
    distance = relative_error(stock(**coarse), truth)

    pipe = pipeline_of(family)
    if lora_first:
        lora(model_of(pipe))
    sdaccel.accelerate(pipe, "none", fuse=True, precision={"dtype": "bfloat16"})
    if not lora_first:
        lora(model_of(pipe))
    assert next(iter(model_of(pipe).parameters())).dtype == torch.bfloat16
    assert relative_error(pipe(**coarse), truth) <= EXACT_RATIO * distance


def controlnet_pipeline() -> Any:
    """A StableDiffusionControlNetPipeline that draws 16x16 pictures in milliseconds."""
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    parts = tiny.stable_diffusion().components
    config = parts["unet"].config
    torch.manual_seed(5)
    net = ControlNetModel(
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=config.down_block_types,
        cross_attention_dim=config.cross_attention_dim,
        attention_head_dim=config.attention_head_dim,
        norm_num_groups=config.norm_num_groups,
        conditioning_embedding_out_channels=(8, 16),
    )
    for name, weight in net.named_parameters():
        if name.startswith(("controlnet_", "conv_")):  # zero in a new ControlNet
            torch.nn.init.normal_(weight, std=0.1)
    pipe = StableDiffusionControlNetPipeline(
        **parts, controlnet=net.eval(), requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("plan", PLANS)
def test_a_controlnet_is_fused_beside_its_unet(plan: str) -> None:
    def draw(pipe: Any, **changes: Any) -> torch.Tensor:
        edges = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
        options = {"image": edges, "guidance_scale": 1.0, "num_inference_steps": 2, **changes}
        return torch.from_numpy(tiny.draw(pipe, **options))

    pipe = controlnet_pipeline()
    stock = draw(pipe)
    assert relative_error(draw(pipe, controlnet_conditioning_scale=0.0), stock) > SHOWS
    sdaccel.accelerate(pipe, "none", **PLANS[plan])
    assert relative_error(draw(pipe), stock) <= 3 * EXACT_ERROR, "two steps and a decoder"
    notes = sdaccel.report(pipe)["fuse"].notes
    assert [note for note in notes if note.startswith("controlnet: spares")]
    sdaccel.restore(pipe)
    assert torch.equal(draw(pipe), stock)


@contextmanager
def no_second_compilation() -> Iterator[None]:
    """Within it Dynamo may not compile anything anew."""
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


@pytest.mark.parametrize("name", ["SD 1.5", "SD 3.5", "FLUX.1", "Wan 2.1"])
def test_a_fused_model_compiles_into_one_graph_for_every_resolution(name: str) -> None:
    from torch.fx.experimental import _config as shapes

    (family,) = families([name])
    pipe = pipeline_of(family)
    model = model_of(pipe)
    inputs = [family.draw(size, 0, torch.float32) for size in SIZES]
    wanted = [forward(model, each) for each in inputs]
    sdaccel.accelerate(pipe, "none+fuse")
    torch._dynamo.reset()
    # two sizes that are equal by chance stay two sizes
    with shapes.patch(use_duck_shape=False):
        model.compile(fullgraph=True, dynamic=True, backend="eager")
        first = forward(model, inputs[0])
        with no_second_compilation():
            second = forward(model, inputs[1])
            again = forward(model, inputs[0])
    assert relative_error(first, wanted[0]) <= EXACT_ERROR
    assert relative_error(second, wanted[1]) <= EXACT_ERROR
    assert torch.equal(again, first)


@pytest.mark.parametrize("fused_first", [True, False])
def test_context_parallel_processes_each_fuse_their_tokens(
    fused_first: bool, tmp_path: Path
) -> None:
    launch(shard, 2, str(tmp_path), "FLUX.1", fused_first)
    for index in range(2):
        found = json.loads((tmp_path / f"{index}.json").read_text(encoding="utf-8"))
        assert found["error"] <= EXACT_ERROR
        assert found["tokens"] == [SIZES[0].patches() // 2]
        assert any(key.endswith("by plain torch") for key in found["ran"])


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
@pytest.mark.parametrize("fused_first", [True, False])
def test_what_is_offloaded_to_the_cpu_is_fused_on_the_gpu(offload: str, fused_first: bool) -> None:
    stock = tiny.stable_diffusion()
    getattr(stock, offload)()
    wanted = torch.from_numpy(tiny.draw(stock))
    pipe = tiny.stable_diffusion()
    if fused_first:
        sdaccel.accelerate(pipe, "none+fuse")
    getattr(pipe, offload)()
    if not fused_first:
        sdaccel.accelerate(pipe, "none+fuse")
    assert relative_error(torch.from_numpy(tiny.draw(pipe)), wanted) <= 3 * EXACT_ERROR
