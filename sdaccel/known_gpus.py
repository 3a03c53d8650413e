"""The peak rates of known GPUs, for planning on a machine that is not at hand.

Every rate is dense: data sheets that print "with sparsity" are halved here. Matrix rates accumulate
in fp32, as PyTorch does. On GeForce cards that halves fp16, bf16 and fp8 (an RTX 4090 is printed as
330 fp16 TFLOP/s with fp16 accumulation, and listed here as 165); data-centre and professional cards
run both at one rate. int8 accumulates in int32 and is halved nowhere. None means that the chip has
no such matrix unit.

The figures are the vendors', partly taken from listings that quote them; look at the document
itself before publishing on one of them:
  NVIDIA data sheets of V100, T4, A10, A30, A40, A100, L4, L40, L40S, H100, H200, GH200, RTX A6000,
  RTX 6000 Ada; DGX B200, GB200 NVL72, HGX B300 and GB300 NVL72 specifications (per GPU: the
  system's figure over its GPUs); GA102 whitepaper (RTX 30), Ada whitepaper (RTX 40), RTX Blackwell
  and RTX PRO Blackwell whitepapers (RTX 50, PRO; the server edition scaled by its fp32 rate); AWS
  and NVIDIA for the A10G; AMD data sheets of MI210, MI250X, MI300A, MI300X, MI325X, MI350X, MI355X,
  Radeon RX 7900 XT, RX 7900 XTX, PRO W7900 and RX 9070 XT.
An MI250X is two devices to PyTorch; its row is one of them. Blackwell Ultra (B300, GB300) kept only
a thirtieth of Blackwell's int8. An H200's bf16 matmul of random
numbers measured 770 to 800 of its 989.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownGPU:
    """One GPU: memory in GB, bandwidth in GB/s, dense rates in TFLOP/s (int8 TOP/s)."""

    name: str
    architecture: str
    memory_gb: float
    bandwidth: float
    fp16: float
    bf16: float | None
    fp8: float | None
    int8: float | None
    aliases: tuple[str, ...] = ()


def known_gpus() -> tuple[KnownGPU, ...]:
    """Every GPU of the table, grouped by maker and age."""
    return _TABLE


def known_gpu(name: str) -> KnownGPU | None:
    """The data sheet behind a device name as `torch.cuda.get_device_name` gives it, or None.

    Word order, vendor words and memory types are ignored; everything else must agree. A name that
    fits several cards ("A100", "H100"), a laptop part, a MIG slice or a "SUPER" that is not listed
    gives None, never a guess.
    """
    return _by_words().get(_words(name))


# Words that tell no two listed cards apart.
_VENDORS = frozenset({"nvidia", "tesla", "geforce", "amd", "instinct", "radeon", "oam", "vf"})
_MEMORIES = frozenset({"hbm2", "hbm2e", "hbm3"})


def _words(name: str) -> frozenset[str]:
    """The words that identify a card: "NVIDIA A100-SXM4-80GB" -> {"a100", "sxm", "80gb"}."""
    joined = re.sub(r"\b(\d+) gb\b", r"\1gb", name.lower())
    words = re.split(r"[^a-z0-9]+", re.sub(r"\bsxm\d?\b", "sxm", joined))
    return frozenset(word for word in words if word and word not in _VENDORS | _MEMORIES)


@functools.cache
def _by_words() -> dict[frozenset[str], KnownGPU]:
    return {_words(name): gpu for gpu in _TABLE for name in (gpu.name, *gpu.aliases)}


# fmt: off
_TABLE: tuple[KnownGPU, ...] = (
    # name, architecture, memory, bandwidth, fp16, bf16, fp8, int8
    KnownGPU("Tesla V100-SXM2-16GB", "sm_70", 16, 900, 125, None, None, None),
    KnownGPU("Tesla V100-SXM2-32GB", "sm_70", 32, 900, 125, None, None, None),
    KnownGPU("Tesla V100-PCIE-16GB", "sm_70", 16, 900, 112, None, None, None),
    KnownGPU("Tesla V100-PCIE-32GB", "sm_70", 32, 900, 112, None, None, None),
    KnownGPU("Tesla T4", "sm_75", 16, 320, 65, None, None, 130),
    KnownGPU("NVIDIA A100-SXM4-40GB", "sm_80", 40, 1555, 312, 312, None, 624, ("A100 40GB",)),
    KnownGPU("NVIDIA A100-SXM4-80GB", "sm_80", 80, 2039, 312, 312, None, 624),
    KnownGPU("NVIDIA A100-PCIE-40GB", "sm_80", 40, 1555, 312, 312, None, 624),
    KnownGPU("NVIDIA A100 80GB PCIe", "sm_80", 80, 1935, 312, 312, None, 624),
    KnownGPU("NVIDIA A30", "sm_80", 24, 933, 165, 165, None, 330),
    KnownGPU("NVIDIA A10", "sm_86", 24, 600, 125, 125, None, 250),
    KnownGPU("NVIDIA A10G", "sm_86", 24, 600, 70, 70, None, 140),
    KnownGPU("NVIDIA A40", "sm_86", 48, 696, 149.7, 149.7, None, 299.3),
    KnownGPU("NVIDIA RTX A6000", "sm_86", 48, 768, 154.8, 154.8, None, 309.7),
    KnownGPU("NVIDIA GeForce RTX 3080", "sm_86", 10, 760, 59.5, 59.5, None, 238),
    KnownGPU("NVIDIA GeForce RTX 3090", "sm_86", 24, 936, 71, 71, None, 284),
    KnownGPU("NVIDIA L4", "sm_89", 24, 300, 121, 121, 242, 242),
    KnownGPU("NVIDIA L40", "sm_89", 48, 864, 181, 181, 362, 362),
    KnownGPU("NVIDIA L40S", "sm_89", 48, 864, 362, 362, 733, 733),
    KnownGPU("NVIDIA RTX 6000 Ada Generation",
             "sm_89", 48, 960, 364.2, 364.2, 728.5, 728.5, ("RTX 6000 Ada",)),
    KnownGPU("NVIDIA GeForce RTX 4080", "sm_89", 16, 717, 97.5, 97.5, 194.9, 389.9),
    KnownGPU("NVIDIA GeForce RTX 4090", "sm_89", 24, 1008, 165.2, 165.2, 330.3, 660.6),
    KnownGPU("NVIDIA H100 80GB HBM3",
             "sm_90", 80, 3350, 989, 989, 1979, 1979, ("H100 SXM", "H100 SXM5 80GB")),
    KnownGPU("NVIDIA H100 PCIe", "sm_90", 80, 2000, 756, 756, 1513, 1513, ("H100 PCIe 80GB",)),
    KnownGPU("NVIDIA H100 NVL", "sm_90", 94, 3900, 835, 835, 1671, 1671),
    KnownGPU("NVIDIA GH200 480GB", "sm_90", 96, 4000, 989, 989, 1979, 1979),
    KnownGPU("NVIDIA H200", "sm_90", 141, 4800, 989, 989, 1979, 1979, ("H200 SXM",)),
    KnownGPU("NVIDIA H200 NVL", "sm_90", 141, 4800, 835, 835, 1671, 1671),
    KnownGPU("NVIDIA B200", "sm_100", 180, 8000, 2250, 2250, 4500, 4500),
    KnownGPU("NVIDIA GB200", "sm_100", 186, 8000, 2500, 2500, 5000, 5000),
    KnownGPU("NVIDIA B300", "sm_103", 270, 8000, 2250, 2250, 4500, 150),
    KnownGPU("NVIDIA GB300", "sm_103", 279, 8000, 2500, 2500, 5000, 165),
    KnownGPU("NVIDIA GeForce RTX 5070 Ti", "sm_120", 16, 896, 87.9, 87.9, 175.8, 351.5),
    KnownGPU("NVIDIA GeForce RTX 5080", "sm_120", 16, 960, 112.6, 112.6, 225.1, 450.2),
    KnownGPU("NVIDIA GeForce RTX 5090", "sm_120", 32, 1792, 209.5, 209.5, 419, 838),
    KnownGPU("NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
             "sm_120", 96, 1792, 503.8, 503.8, 1007.6, 1007.6),
    KnownGPU("NVIDIA RTX PRO 6000 Blackwell Server Edition",
             "sm_120", 96, 1597, 480, 480, 960, 960),
    KnownGPU("AMD Instinct MI210", "gfx90a", 64, 1638, 181, 181, None, 181),
    KnownGPU("AMD Instinct MI250X", "gfx90a", 64, 1638, 191.5, 191.5, None, 191.5),
    KnownGPU("AMD Instinct MI300A", "gfx942", 128, 5300, 980.6, 980.6, 1961.2, 1961.2),
    KnownGPU("AMD Instinct MI300X", "gfx942", 192, 5300, 1307.4, 1307.4, 2614.9, 2614.9),
    KnownGPU("AMD Instinct MI325X", "gfx942", 256, 6000, 1307.4, 1307.4, 2614.9, 2614.9),
    KnownGPU("AMD Instinct MI350X", "gfx950", 288, 8000, 2306.9, 2306.9, 4613.7, 4613.7),
    KnownGPU("AMD Instinct MI355X", "gfx950", 288, 8000, 2516.6, 2516.6, 5033.2, 5033.2),
    KnownGPU("AMD Radeon RX 7900 XT", "gfx1100", 20, 800, 103, 103, None, 103),
    KnownGPU("AMD Radeon RX 7900 XTX", "gfx1100", 24, 960, 122.8, 122.8, None, 122.8),
    KnownGPU("AMD Radeon PRO W7900", "gfx1100", 48, 864, 122.6, 122.6, None, 122.6),
    KnownGPU("AMD Radeon RX 9070 XT", "gfx1201", 16, 640, 194.6, 194.6, 389, 389),
)
# fmt: on
