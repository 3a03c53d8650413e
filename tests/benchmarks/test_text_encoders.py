"""Text encoders: published sizes, and encodings that run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sdaccel.benchmarks import command, rungs, text_encoders
from sdaccel.benchmarks.ladder import Ladder, Options
from sdaccel.benchmarks.text_encoders import TEXT_ENCODERS, TextEncoder, one_encoding
from sdaccel.benchmarks.workloads import workload

BILLIONS = {
    "clip-l-text": 0.123,
    "clip-g-text": 0.695,
    "t5-xxl-text": 4.762,
    "umt5-xxl-text": 5.681,
    "gemma2-2b-text": 2.614,
    "qwen2.5-7b-text": 7.071,
    "qwen3-4b-text": 4.022,
    "llama3-8b-text": 7.505,
}
NARROW = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
NARROW_T5 = {
    "vocab_size": 100,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
}


def narrow(name: str) -> TextEncoder:
    """One of the text encoders, a few words wide."""
    encoder = TEXT_ENCODERS[name]
    if encoder.layers == "num_layers":
        return replace(encoder, config={**encoder.config, **NARROW_T5}, tokens=(1, 9))
    config = {**encoder.config, **NARROW}
    config |= {key: 2 for key in ("num_key_value_heads",) if key in config}
    config |= {key: 8 for key in ("head_dim", "projection_dim") if key in config}
    return replace(encoder, config=config, tokens=(2, 9))


@pytest.mark.parametrize("name", TEXT_ENCODERS)
def test_a_text_encoder_has_its_published_size(name: str) -> None:
    encoder = TEXT_ENCODERS[name]
    with torch.device("meta"):
        model = encoder.laid_out(encoder.config)
    count = sum(parameter.numel() for parameter in set(model.parameters()))
    assert count / 1e9 == pytest.approx(BILLIONS[name], abs=0.001)


@pytest.mark.parametrize("name", TEXT_ENCODERS)
def test_an_encoding_runs_and_is_the_same_each_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TEXT_ENCODERS, name, narrow(name))  # type: ignore[index]
    chosen = text_encoders.workload(name, quick=False)
    pipe = chosen.build()
    call = chosen.prepare(pipe)
    assert call().shape == (*narrow(name).tokens, 32)
    assert torch.equal(call(), call())
    assert call().isfinite().all()
    pipe.text_encoder.to(torch.bfloat16)
    assert one_encoding(pipe, (1, 5), narrow(name).arguments)().dtype == torch.float32


def test_a_plan_climbs_beside_a_text_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TEXT_ENCODERS, "clip-l-text", narrow("clip-l-text"))  # type: ignore[index]
    chosen = text_encoders.workload("clip-l-text", quick=False)
    plan = rungs.rung("none+precision[dtype=bfloat16]")
    rows = Ladder(chosen, Options(2, memory=False)).climb([plan])
    assert [row.status for row in rows] == ["ok", "ok"], [row.reason for row in rows]
    assert [row.dtype for row in rows] == ["float32", "bfloat16"]
    assert rows[1].error is not None
    assert 0 < rows[1].error < 0.05


def test_they_are_measured_when_they_are_asked_for() -> None:
    def chosen(*words: str) -> list[str]:
        return command.workloads_of(command.parser().parse_args(words))

    assert not set(TEXT_ENCODERS) & set(chosen("--workload", "all"))
    assert set(TEXT_ENCODERS) <= set(chosen("--workload", "all", "--text-encoders"))
    assert chosen("--text-encoders") == list(TEXT_ENCODERS)
    assert chosen("--workload", "t5-xxl-text") == ["t5-xxl-text"]
    assert workload("t5-xxl-text", quick=True).settings == {"tokens": [1, 77], "layers": 2}
