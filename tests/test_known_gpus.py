"""The table of known GPUs: names find their own row, and the rates are dense and consistent."""

from __future__ import annotations

import pytest

from sdaccel.known_gpus import KnownGPU, known_gpu, known_gpus


@pytest.mark.parametrize(
    ("name", "listed", "bandwidth"),
    [
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB", 1555),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB", 2039),
        ("A100-PCIE-40GB", "NVIDIA A100-PCIE-40GB", 1555),
        ("NVIDIA A100-PCIE-80GB", "NVIDIA A100 80GB PCIe", 1935),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3", 3350),
        ("NVIDIA H100 PCIe", "NVIDIA H100 PCIe", 2000),
        ("H100 SXM5 80 GB", "NVIDIA H100 80GB HBM3", 3350),
        ("NVIDIA H100 NVL", "NVIDIA H100 NVL", 3900),
        ("NVIDIA H200", "NVIDIA H200", 4800),
        ("Tesla T4", "Tesla T4", 320),
        ("nvidia l40s", "NVIDIA L40S", 864),
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090", 1008),
        ("RTX 4090", "NVIDIA GeForce RTX 4090", 1008),
        (
            "NVIDIA RTX PRO 6000 Blackwell Server Edition",
            "NVIDIA RTX PRO 6000 Blackwell Server Edition",
            1597,
        ),
        ("AMD Instinct MI300X OAM", "AMD Instinct MI300X", 5300),
        ("AMD Radeon RX 7900 XTX", "AMD Radeon RX 7900 XTX", 960),
    ],
)
def test_a_device_name_finds_its_own_row(name: str, listed: str, bandwidth: float) -> None:
    found = known_gpu(name)
    assert found is not None
    assert (found.name, found.bandwidth) == (listed, bandwidth)


@pytest.mark.parametrize(
    "name",
    [
        "A100",
        "H100",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4080 SUPER",
        "Quadro RTX 6000",
        "NVIDIA RTX 6000",
        "AMD Radeon Graphics",
        "AMD EPYC",
        "",
    ],
)
def test_an_ambiguous_or_unlisted_name_finds_nothing(name: str) -> None:
    assert known_gpu(name) is None


def test_no_two_rows_answer_to_one_name() -> None:
    assert len(known_gpus()) >= 40
    for gpu in known_gpus():
        assert all(known_gpu(name) is gpu for name in (gpu.name, *gpu.aliases)), gpu.name


def rates(*architectures: str) -> list[KnownGPU]:
    found = [gpu for gpu in known_gpus() if gpu.architecture in architectures]
    assert found
    return found


def test_fp8_and_bf16_begin_where_the_architecture_brings_them() -> None:
    assert all(
        gpu.fp8 is None for gpu in rates("sm_70", "sm_75", "sm_80", "sm_86", "gfx90a", "gfx1100")
    )
    assert all(
        gpu.fp8
        for gpu in rates("sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950", "gfx1201")
    )
    assert all(gpu.bf16 is None for gpu in rates("sm_70", "sm_75"))
    assert all(gpu.bf16 == gpu.fp16 for gpu in known_gpus() if gpu.bf16 is not None)


def test_rates_are_dense_and_in_the_hardware_s_proportions() -> None:
    """A sparse figure among dense ones would be off by two."""
    for gpu in known_gpus():
        if gpu.fp8 is not None:
            assert gpu.fp8 / gpu.fp16 == pytest.approx(2, rel=0.02), gpu.name
    for gpu in rates("sm_80", "sm_90", "sm_100", "gfx942", "gfx950"):
        assert gpu.int8 is not None
        assert gpu.int8 / gpu.fp16 == pytest.approx(2, rel=0.02), gpu.name


def test_geforce_rates_accumulate_in_fp32_and_professional_ones_run_full() -> None:
    """int8 is not halved on GeForce: it is four times the fp16 rate there and twice elsewhere."""
    for gpu in rates("sm_86", "sm_89", "sm_120"):
        assert gpu.int8 is not None
        expected = 4 if "GeForce" in gpu.name else 2
        assert gpu.int8 / gpu.fp16 == pytest.approx(expected, rel=0.02), gpu.name


def test_a_memory_bound_op_needs_a_plausible_intensity_to_saturate() -> None:
    """FLOPs a byte at which compute and memory take equal time: a slipped digit shows here."""
    for gpu in known_gpus():
        assert 60 < gpu.fp16 * 1e3 / gpu.bandwidth < 450, gpu.name
        assert 10 <= gpu.memory_gb <= 288, gpu.name
