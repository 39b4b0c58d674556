"""What the system tells of its CPU, and what is told where it tells nothing."""

from pathlib import Path

import numpy as np
import pytest

from backends import machine

_X86 = "processor : 0\nmodel name\t: Some CPU: fast\nflags\t\t: sse2 avx2\n\nflags : none\n"
_ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimdhp\n"


@pytest.mark.parametrize(
    ("text", "name", "flags"),
    [
        (_X86, "Some CPU: fast", {"sse2", "avx2"}),
        (_ARM, "riscv", {"fp", "asimdhp"}),
        ("", "riscv", None),
        (None, "riscv", None),
    ],
)
def test_the_cpu(text, name, flags, tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(machine, "Path", lambda path: {"/proc/cpuinfo": Path(file)}[path])
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "riscv")
    assert machine.processor_name() == name
    assert machine.cpu_flags() == flags


def test_versions_are_those_of_what_is_installed():
    assert machine.versions_of("no-such-package", "numpy") == (("numpy", np.__version__),)
    assert machine.version_of("no-such-package") is None
