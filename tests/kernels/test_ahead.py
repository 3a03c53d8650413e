"""Every kernel compiles for every chip without a GPU: no spills, within the chip's shared memory.

Kernels that multiply matrices do so with the chip's own instructions.

In processes of their own: this one's kernels belong to Triton's interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sdaccel.kernels.ahead import CHIPS, FILES

_SCRIPT = """
import sys
from sdaccel.kernels.ahead import CHIPS, MATRIX_FILES, build, is_fit, specimens
for name in sys.argv[2:]:
    chip, cases = CHIPS[name], specimens(sys.argv[1])
    case, launch = next(each for each in cases if is_fit(each[1], chip))
    binary = build(launch, chip)
    assert binary.registers > 0, binary
    assert binary.spills == 0, binary
    assert binary.shared <= chip.shared_memory, binary
    assert sys.argv[1] not in MATRIX_FILES or binary.instructions[chip.matrix] > 0, binary
    print(name)
"""


@pytest.mark.parametrize("file", FILES)
def test_a_kernel_compiles_for_every_chip(file: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-c", _SCRIPT, file, *CHIPS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == list(CHIPS)


_ATTENTION_INT8 = """
from sdaccel.kernels.ahead import CHIPS, build, is_fit, specimens
for case, launch in specimens("attention_int8"):
    if launch.kernel.__name__ != "attention_int8_kernel" or not case.startswith("FLUX"):
        continue
    for chip in CHIPS.values():
        if is_fit(launch, chip):
            binary = build(launch, chip)
            assert binary.spills == 0, (case, chip, binary)
            assert binary.shared <= chip.shared_memory, (case, chip, binary)
            found = [name for name, count in binary.instructions.items() if count]
            print(case, chip.name, *found, sep=",")
"""


def test_attention_int8_multiplies_8_bits_with_each_chip_s_own_instructions() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-c", _ATTENTION_INT8]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {
        tuple(line.split(",")[:2]): set(line.split(",")[2:]) for line in done.stdout.splitlines()
    }
    units = {"sm_90": "wgmma", "sm_100": "tcgen05"}
    assert {chip for case, chip in found if case == "FLUX 16bit"} == set(CHIPS)
    assert {chip for case, chip in found if case == "FLUX fp8"} == {
        *("sm_89", "sm_90", "sm_100", "sm_120")
    }
    for (case, chip), names in found.items():
        assert {units.get(chip, "mma"), "int8"} <= names, (case, chip, names)
        assert ("fp8" in names) == (case == "FLUX fp8"), (case, chip, names)
