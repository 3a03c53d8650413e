"""A pipeline becomes a folder of graphs that compute what its modules do, or no folder at all."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny

pytest.importorskip("onnx", reason="exporting needs sdaccel[onnx]")
pytest.importorskip("onnxscript", reason="exporting needs sdaccel[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="exporting needs sdaccel[onnx]")

import torch  # noqa: E402

import sdaccel  # noqa: E402
from sdaccel.errors import ExportError, TargetError  # noqa: E402
from sdaccel.export import Manifest, export, pipeline, space  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
"""What torch, onnxscript and ONNX Runtime warn of is theirs."""


def run(folder: Path, name: str, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """One component's graph on ONNX Runtime's CPU provider."""
    entry = Manifest.read(folder).component(name)
    session = onnxruntime.InferenceSession(
        str(folder / entry.file), providers=["CPUExecutionProvider"]
    )
    found = session.run(None, {key: value.numpy() for key, value in inputs.items()})
    return {
        info.name: torch.from_numpy(each) for info, each in zip(entry.outputs, found, strict=True)
    }


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A tiny Stable Diffusion, and the folder of its two smallest graphs."""
    pipe, folder = tiny.stable_diffusion(), tmp_path_factory.mktemp("exported") / "onnx"
    # transformers hooks its layers itself when it is first asked for their outputs
    pipe.text_encoder(torch.zeros(1, 4, dtype=torch.long), output_hidden_states=True)
    before = tiny.snapshot(pipe)
    export(pipe, folder, components=["vae_decoder", "text_encoder"])
    assert tiny.snapshot(pipe) == before
    return pipe, folder


def test_every_component_is_there_and_named_as_in_the_pipe(exported: tuple[Any, Path]) -> None:
    _, folder = exported
    manifest = Manifest.read(folder)
    assert set(manifest.components) == {"vae_decoder", "text_encoder"}
    assert manifest.pipeline == "StableDiffusionPipeline"
    assert manifest.component("vae_decoder").class_name == "AutoencoderKL"
    assert {each.precision for each in manifest.components.values()} == {"fp32"}
    manifest.verify(folder)


def test_all_that_may_change_has_a_name(exported: tuple[Any, Path]) -> None:
    entry = Manifest.read(exported[1]).component("vae_decoder")
    assert [(each.name, each.shape) for each in entry.inputs] == [
        ("z", ("batch", 4, "height", "width"))
    ]
    assert [each.name for each in entry.outputs] == ["sample"]
    assert entry.outputs[0].shape[:2] == ("batch", 3)


def test_the_graphs_compute_what_the_modules_do(exported: tuple[Any, Path]) -> None:
    pipe, folder = exported
    random = torch.Generator().manual_seed(0)
    for shape in ((1, 4, 8, 8), (3, 4, 6, 14)):
        latents = torch.randn(shape, generator=random)
        with torch.no_grad():
            drawn = pipe.vae.decode(latents).sample
        assert distance(run(folder, "vae_decoder", z=latents)["sample"], drawn) < 1e-5
    tokens = torch.randint(50, (3, 16), generator=random)
    with torch.no_grad():
        text = pipe.text_encoder(tokens)
    found = run(folder, "text_encoder", input_ids=tokens)
    assert distance(found["last_hidden_state"], text.last_hidden_state) < 1e-5
    assert distance(found["pooler_output"], text.pooler_output) < 1e-5
    assert "hidden_states.1" in found


def test_the_rest_of_the_pipe_lies_beside_the_graphs(exported: tuple[Any, Path]) -> None:
    from diffusers import AutoencoderKL, DDIMScheduler
    from transformers import CLIPTokenizer

    pipe, folder = exported
    assert (folder / "model_index.json").is_file()
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler").config
    assert (scheduler.clip_sample, scheduler.steps_offset) == (False, 1)
    words = pipe.tokenizer("a cat").input_ids
    assert CLIPTokenizer.from_pretrained(folder / "tokenizer")("a cat").input_ids == words
    config = AutoencoderKL.load_config(folder / "vae")
    assert config["block_out_channels"] == [16, 32]
    assert list((folder / "vae").glob("*.safetensors")), "the encoder was not exported"
    assert not list((folder / "text_encoder").glob("*.safetensors"))


def weights_in(folder: Path) -> set[str]:
    """The components that a folder has PyTorch weights of."""
    return {each.parent.name for each in folder.rglob("*.safetensors")}


def test_what_is_not_exported_has_its_weights_so_that_the_folder_loads_by_itself(
    tmp_path: Path,
) -> None:
    from diffusers import StableDiffusionPipeline

    pipe, folder = tiny.stable_diffusion(), tmp_path / "onnx"
    export(pipe, folder, components=["text_encoder"])
    assert weights_in(folder) == {"unet", "vae"}
    loaded = StableDiffusionPipeline.from_pretrained(folder, text_encoder=pipe.text_encoder)
    assert torch.equal(loaded.unet.conv_in.weight, pipe.unet.conv_in.weight)
    assert torch.equal(loaded.vae.encoder.conv_in.weight, pipe.vae.encoder.conv_in.weight)


def test_a_folder_for_a_pipe_that_has_the_rest_holds_graphs_alone(tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    export(tiny.stable_diffusion(), folder, components=["text_encoder"], rest=False)
    assert weights_in(folder) == set()
    assert (folder / "text_encoder" / "model.onnx").is_file()
    assert (folder / "vae" / "config.json").is_file()


def test_half_precision_is_written_as_such_and_leaves_the_pipe_alone(tmp_path: Path) -> None:
    import onnx

    pipe = tiny.stable_diffusion()
    before = tiny.snapshot(pipe)
    manifest = export(pipe, tmp_path / "onnx", components=["text_encoder"], precision="bf16")
    assert tiny.snapshot(pipe) == before
    entry = manifest.component("text_encoder")
    assert entry.precision == "bf16"
    weights = onnx.load(tmp_path / "onnx" / entry.file).graph.initializer
    floats = [each for each in weights if each.data_type in (1, 10, 11, 16)]
    large = [each for each in floats if len(each.dims) == 2]
    assert large
    assert {each.data_type for each in large} == {onnx.TensorProto.BFLOAT16}


def test_an_accelerated_pipe_is_refused(tmp_path: Path) -> None:
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "eager")
    with pytest.raises(ExportError, match=r"is accelerated \(plan eager\).*restore\(pipe\)"):
        export(pipe, tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"components": ["unet", "decoder"]}, "has no 'decoder' to export, only"),
        ({"precision": "fp8"}, "no precision 'fp8'"),
        ({"attention": "flash"}, "no attention 'flash'"),
    ],
)
def test_options_that_do_not_exist_are_refused(
    options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=sentence):
        export(tiny.stable_diffusion(), tmp_path / "onnx", **options)
    assert not list(tmp_path.iterdir())


def test_something_that_is_no_pipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError):
        export(tiny.unet(), tmp_path / "onnx")


def test_a_model_whose_arguments_are_not_known_is_named(tmp_path: Path) -> None:
    pipe = tiny.stable_diffusion()
    pipe.text_encoder.__class__ = type("OtherEncoder", (type(pipe.text_encoder),), {})
    with pytest.raises(ExportError, match=r"text_encoder \(OtherEncoder\) can't be exported"):
        export(pipe, tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(ExportError, match="is not empty"):
        export(tiny.stable_diffusion(), tmp_path)
    assert (tmp_path / "mine").read_text() == "kept"


def test_too_little_room_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ExportError, match=r"takes about .* GB.*has room for 0\.0 GB"):
        export(tiny.stable_diffusion(), tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


def test_the_weights_that_are_saved_as_they_are_need_room_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tiny.stable_diffusion(unet=tiny.unet(block_out_channels=(256, 512)))
    graph = space.room_for([(pipe.text_encoder, torch.float32)])
    usage = shutil.disk_usage(tmp_path)._replace(free=graph)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ExportError, match="has room for"):
        export(pipe, tmp_path / "onnx", components=["text_encoder"])
    assert not list(tmp_path.iterdir())
    export(pipe, tmp_path / "onnx", components=["text_encoder"], rest=False)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ExportError("unet can't be exported"), "unet can't be exported"),
        (OSError(errno.ENOSPC, "No space left on device"), r"written \(No space left.*: choose"),
    ],
    ids=["the module", "the disk"],
)
def test_a_failure_half_way_leaves_no_folder(
    error: Exception, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(job: Any, folder: Path, *rest: Any) -> None:
        (folder / job.name).mkdir(exist_ok=True)
        raise error

    monkeypatch.setattr(pipeline, "export_component", fails)
    with pytest.raises(ExportError, match=sentence):
        export(tiny.stable_diffusion(), tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


def test_what_is_not_installed_is_named_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_PACKAGES", ("onnx", "not_there_at_all"))
    with pytest.raises(ExportError, match=r"needs not_there_at_all: .*sdaccel\[onnx\]"):
        export(tiny.stable_diffusion(), tmp_path / "onnx")
