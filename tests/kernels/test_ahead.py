"""Every kernel compiles for every chip without a GPU: no spills, within the chip's shared memory.

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
from sdaccel.kernels.ahead import CHIPS, build, is_fit, specimens
for name in sys.argv[2:]:
    chip, cases = CHIPS[name], specimens(sys.argv[1])
    case, launch = next(each for each in cases if is_fit(each[1], chip))
    binary = build(launch, chip)
    assert binary.registers > 0, binary
    assert binary.spills == 0, binary
    assert binary.shared <= chip.shared_memory, binary
    print(name)
"""


@pytest.mark.parametrize("file", FILES)
def test_a_kernel_compiles_for_every_chip(file: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-c", _SCRIPT, file, *CHIPS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == list(CHIPS)
