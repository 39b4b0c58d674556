from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import host as host_module
from harness.host import (
    ISA,
    Clock,
    Cpu,
    Gpu,
    Host,
    Memory,
    advice,
    parse_cpu_list,
    parse_nvidia_smi,
    probe_host,
)

HOSTS = Path(__file__).parent / "fixtures" / "hosts"
GIB = 2**30


def write_tree(text: str, root: Path) -> Path:
    for section in re.split(r"^== ", text, flags=re.MULTILINE)[1:]:
        header, _, content = section.partition("\n")
        pieces = re.split(r"\{([^}]*)\}", header.strip())
        choices = [piece.split(",") if n % 2 else [piece] for n, piece in enumerate(pieces)]
        for path in map("".join, itertools.product(*choices)):
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
    return root


@pytest.fixture
def hosts(tmp_path: Path) -> dict[str, Path]:
    return {
        file.stem: write_tree(file.read_text(), tmp_path / file.stem)
        for file in HOSTS.glob("*.txt")
    }


def test_intel_server(hosts: dict[str, Path]) -> None:
    host = probe_host(hosts["intel-server"])
    cpu = host.cpu
    assert (cpu.model, cpu.vendor) == ("Intel(R) Xeon(R) Platinum 8480+", "Intel")
    assert cpu.architecture == "x86_64"
    assert {"amx_tile", "amx_int8", "amx_bf16", "avx512_vnni", "avx512_fp16"} <= set(cpu.isa)
    assert cpu.isa == tuple(sorted(cpu.isa))
    assert (cpu.sockets, cpu.physical_cores, cpu.logical_cpus) == (2, 4, 8)
    # allowed 0-127, but only 8 are there; cpu.max says "max"
    assert (cpu.available_cpus, cpu.quota_cpus) == (8, None)
    assert cpu.numa_nodes == 2  # node 2 has memory only
    assert cpu.kinds == (8,)
    assert dataclasses.astuple(cpu.caches) == (48 * 2**10, 2 * 2**20, 105 * 2**20)
    assert host.clock == Clock(
        governor="powersave",
        min_hz=800_000_000,
        max_hz=3_800_000_000,
        boost=True,
        boost_path="/sys/devices/system/cpu/intel_pstate/no_turbo",
        boost_off="1",
    )
    assert host.memory == Memory(527_988_736 * 1024, 510_000_000 * 1024, None)
    assert (host.machine, host.virtualised) == ("Dell Inc. PowerEdge R760", False)
    assert (host.hostname, host.os) == ("server.lab.example", "Ubuntu 24.04.1 LTS")
    assert host.kernel == "6.8.0-45-generic"
    assert host.gpus == ()


def test_intel_hybrid_laptop(hosts: dict[str, Path]) -> None:
    host = probe_host(hosts["intel-laptop"])
    assert host.cpu.model == "12th Gen Intel(R) Core(TM) i5-1240P"
    assert host.cpu.isa == ("avx", "avx2", "avx_vnni", "f16c", "fma", "sse4_1")
    assert (host.cpu.physical_cores, host.cpu.logical_cpus) == (4, 6)
    assert host.cpu.kinds == (4, 2)
    assert host.clock.governor == "performance+powersave"
    assert (host.clock.min_hz, host.clock.max_hz) == (400_000_000, 4_400_000_000)
    assert host.clock.boost is False
    # DMI's placeholders are passed over, and the maker isn't said twice
    assert host.machine == "LENOVO 21BV"
    assert host.virtualised is False


def test_amd_virtual_machine_without_cpufreq(hosts: dict[str, Path]) -> None:
    host = probe_host(hosts["amd-vm"])
    assert (host.cpu.vendor, host.cpu.architecture) == ("AMD", "x86_64")
    assert host.clock == Clock()
    assert host.virtualised is True
    assert (host.cpu.physical_cores, host.cpu.logical_cpus) == (1, 2)
    assert host.cpu.numa_nodes is None
    assert host.cpu.caches.l3_bytes is None


def test_a_clouds_bare_machine_is_not_virtual(tmp_path: Path) -> None:
    tree = "== sys/class/dmi/id/sys_vendor\nAmazon EC2\n== sys/class/dmi/id/product_name\n{}\n"
    metal = probe_host(write_tree(tree.format("m7g.metal"), tmp_path / "metal"))
    guest = probe_host(write_tree(tree.format("m7g.large"), tmp_path / "guest"))
    assert (metal.virtualised, guest.virtualised) == (False, True)


def test_raspberry_pi_5(hosts: dict[str, Path]) -> None:
    host = probe_host(hosts["raspberry-pi-5"])
    assert (host.cpu.model, host.cpu.vendor) == ("Cortex-A76", "Arm")
    assert host.cpu.architecture == "aarch64"
    assert host.cpu.isa == ("neon", "neon_dotprod", "neon_fp16")
    assert (host.cpu.logical_cpus, host.cpu.available_cpus) == (4, 4)
    assert host.machine == "Raspberry Pi 5 Model B Rev 1.0"
    assert host.clock.governor == "ondemand"
    assert any("vcgencmd" in tip for tip in advice(host))


def test_jetson(hosts: dict[str, Path]) -> None:
    text = "Orin (nvgpu), [N/A], 540.3.0, 8.7, [N/A]\n"
    host = probe_host(hosts["jetson-orin"], gpu_text=lambda: text)
    assert host.cpu.model == "Cortex-A78AE"
    assert host.machine == "NVIDIA Jetson AGX Orin Developer Kit"
    assert host.virtualised is False
    assert host.gpus == (Gpu("Orin (nvgpu)", None, "540.3.0", "8.7", None),)
    assert any("jetson_clocks" in tip for tip in advice(host))


def test_cores_of_different_kinds_on_arm(tmp_path: Path) -> None:
    block = (
        "processor: {}\nFeatures: asimd sve sve2 i8mm bf16{}\nCPU implementer: 0x41\nCPU part: {}\n"
    )
    blocks = (block.format(0, " asimddp", "0xd05"), block.format(1, "", "0xd0b"))
    text = "== proc/cpuinfo\n" + "\n".join(blocks) + "== sys/devices/system/cpu/online\n0-1\n"
    base = "== sys/devices/system/cpu/cpu{}/cpu_capacity\n{}\n"
    text += base.format(0, 400) + base.format(1, 1024)
    host = probe_host(write_tree(text, tmp_path))
    assert host.cpu.model == "Cortex-A55 + Cortex-A76"
    assert host.cpu.kinds == (1, 1)
    # only what every core has
    assert host.cpu.isa == ("bf16", "i8mm", "neon", "sve", "sve2")


def test_unknown_arm_core_is_named_by_its_numbers(tmp_path: Path) -> None:
    tree = "== proc/cpuinfo\nprocessor: 0\nCPU implementer: 0x51\nCPU part: 0x001\n"
    assert probe_host(write_tree(tree, tmp_path)).cpu.model == "Qualcomm 0x001"


def test_broken_files_give_none(hosts: dict[str, Path]) -> None:
    assert probe_host(hosts["broken"]) == Host()


def test_missing_files_give_none(tmp_path: Path) -> None:
    assert probe_host(tmp_path) == Host()
    assert probe_host(tmp_path / "nowhere") == Host()
    assert advice(Host()) == ()


def test_folders_instead_of_files_give_none(tmp_path: Path) -> None:
    for name in ("proc/cpuinfo", "proc/meminfo", "sys/devices/system/cpu/online"):
        (tmp_path / name).mkdir(parents=True)
    assert probe_host(tmp_path) == Host()


@given(
    st.dictionaries(
        st.sampled_from(["proc/cpuinfo", "proc/meminfo", "proc/self/cgroup"]),
        st.binary(max_size=200),
    )
)
def test_no_content_raises(files: dict[str, bytes]) -> None:
    class Tree(host_module._Tree):
        def text(self, path: str) -> str | None:
            return files.get(path, b"").decode("utf-8", "replace").strip() or None

    tree = Tree(Path())
    blocks = host_module._cpuinfo(tree)
    assert isinstance(host_module._cpu(tree, blocks, real=False), Cpu)
    assert isinstance(host_module._memory(tree), Memory)


def container(cgroup: str, *files: tuple[str, str]) -> str:
    parts = [
        "== sys/devices/system/cpu/online\n0-7\n",
        "== proc/self/status\nCpus_allowed_list:\t0-5\n",
        "== proc/meminfo\nMemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n",
        f"== proc/self/cgroup\n{cgroup}\n",
        *(f"== sys/fs/cgroup/{path}\n{text}\n" for path, text in files),
    ]
    return "".join(parts)


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/", [("cpu.max", "250000 100000"), ("memory.max", "1073741824")], (2.5, 2, GIB)),
        # the tightest of this group and those above it
        (
            "0::/a/b",
            [
                ("a/cpu.max", "150000 100000"),
                ("a/b/cpu.max", "300000 100000"),
                ("a/memory.max", "max"),
                ("a/b/memory.max", "2147483648"),
            ],
            (1.5, 1, 2 * GIB),
        ),
        ("0::/", [("cpu.max", "50000 100000")], (0.5, 1, None)),
        ("0::/", [("cpu.max", "max 100000"), ("memory.max", "max")], (None, 6, None)),
        # more than there is
        ("0::/", [("cpu.max", "6400000 100000"), ("memory.max", str(64 * GIB))], (None, 6, None)),
        # version 1, seen from inside a container that mounts its own group as the root
        (
            "4:cpu,cpuacct:/docker/1\n3:memory:/docker/1",
            [
                ("cpu,cpuacct/cpu.cfs_quota_us", "300000"),
                ("cpu,cpuacct/cpu.cfs_period_us", "100000"),
                ("memory/memory.limit_in_bytes", str(GIB)),
            ],
            (3.0, 3, GIB),
        ),
        (
            "1:cpu:/\n4:memory:/x",
            [
                ("cpu/cpu.cfs_quota_us", "-1"),
                ("cpu/cpu.cfs_period_us", "100000"),
                ("memory/x/memory.limit_in_bytes", "9223372036854771712"),
            ],
            (None, 6, None),
        ),
        # outside what the namespace shows
        ("0::/../other", [("cpu.max", "200000 100000")], (2.0, 2, None)),
    ],
)
def test_cgroup_limits(
    tmp_path: Path,
    cgroup: str,
    files: list[tuple[str, str]],
    expected: tuple[float | None, int, int | None],
) -> None:
    quota, cpus, limit = expected
    host = probe_host(write_tree(container(cgroup, *files), tmp_path))
    assert host.cpu.quota_cpus == quota
    assert host.cpu.available_cpus == cpus
    assert host.memory.limit_bytes == limit
    assert host.memory.usable_bytes == min(4 * GIB, limit or 4 * GIB)


def test_affinity_is_less_than_the_host(tmp_path: Path) -> None:
    host = probe_host(write_tree(container("0::/"), tmp_path))
    assert (host.cpu.available_cpus, host.cpu.logical_cpus) == (6, 8)
    assert any("6 of 8 CPUs" in tip for tip in advice(host))


def test_usable_memory_unknown() -> None:
    assert Memory().usable_bytes is None
    assert Memory(limit_bytes=5).usable_bytes == 5


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0", {0}),
        ("0-3,8", {0, 1, 2, 3, 8}),
        (" 0-1\n", {0, 1}),
        ("", None),
        ("3-1", None),
        ("a-b", None),
        ("-1", None),
        ("0-9999999999", None),
    ],
)
def test_cpu_list(text: str, cpus: set[int] | None) -> None:
    assert parse_cpu_list(text) == cpus


@given(st.text())
def test_parsers_never_raise(text: str) -> None:
    parse_cpu_list(text)
    parse_nvidia_smi(text)


def test_nvidia_smi() -> None:
    text = (
        "NVIDIA GeForce RTX 4090, 24564, 550.54.14, 8.9, 450.00\n"
        "NVIDIA H100 80GB HBM3, 81559, 550.54.14, 9.0, [N/A]\n"
    )
    assert parse_nvidia_smi(text) == (
        Gpu("NVIDIA GeForce RTX 4090", 24564 * 2**20, "550.54.14", "8.9", 450.0),
        Gpu("NVIDIA H100 80GB HBM3", 81559 * 2**20, "550.54.14", "9.0", None),
    )
    # drivers that know no compute_cap answer the shorter query
    assert parse_nvidia_smi("Tesla K80, 11441, 470.82\n") == (
        Gpu("Tesla K80", 11441 * 2**20, "470.82"),
    )
    assert parse_nvidia_smi("No devices were found\n") == ()
    assert parse_nvidia_smi("X, nan, , [Not Supported], -1\n") == (Gpu("X"),)


def fake_nvidia_smi(folder: Path, script: str) -> None:
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)


def test_nvidia_smi_is_run_from_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    fake_nvidia_smi(
        tmp_path,
        'case "$1" in *compute_cap*) echo bad field; exit 2;; esac; echo "Old, 1024, 390.1"',
    )
    assert probe_host().gpus == (Gpu("Old", GIB, "390.1"),)
    fake_nvidia_smi(tmp_path, "echo broken driver; exit 9")
    assert probe_host().gpus == ()
    monkeypatch.setattr(host_module, "_GPU_TIMEOUT_S", 0.05)
    fake_nvidia_smi(tmp_path, "exec sleep 60")
    assert probe_host().gpus == ()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert host_module._query_gpus() == ""


def test_this_host() -> None:
    host = probe_host(gpu_text=str)
    assert host.cpu.architecture == os.uname().machine
    assert host.hostname == os.uname().nodename
    assert host.memory.total_bytes is not None
    assert host.memory.total_bytes == pytest.approx(
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.05
    )
    assert host.cpu.available_cpus is not None
    assert 1 <= host.cpu.available_cpus <= len(os.sched_getaffinity(0))
    assert set(host.cpu.isa) <= set(ISA)
    assert host.fingerprint() == probe_host(gpu_text=str).fingerprint()


def test_to_dict_is_json(hosts: dict[str, Path]) -> None:
    for root in hosts.values():
        host = probe_host(root)
        plain = host.to_dict()
        assert json.loads(json.dumps(plain)) == plain
        assert plain["fingerprint"] == host.fingerprint()
        assert plain["cpu"]["isa"] == list(host.cpu.isa)


def test_fingerprint_tells_hosts_apart_and_is_stable(hosts: dict[str, Path]) -> None:
    prints = {name: probe_host(root).fingerprint() for name, root in hosts.items()}
    assert len(set(prints.values())) == len(prints)
    # stored results refer to it: a change here must be a decision
    assert prints["intel-server"] == "c1c1cc8e7767cdf8"
    assert prints["raspberry-pi-5"] == "9683a45c06e3ae3c"


def test_what_changes_the_fingerprint(hosts: dict[str, Path]) -> None:
    host = probe_host(hosts["intel-server"])
    change = dataclasses.replace
    same = [
        change(host, kernel="7.0", hostname="other", os=None, machine=None),
        change(host, clock=Clock()),
        # a kernel that reserves a little more
        change(host, memory=Memory(527_000_000 * 1024, 1, 2)),
    ]
    assert {one.fingerprint() for one in same} == {host.fingerprint()}
    others = [
        change(host, cpu=change(host.cpu, model="other")),
        change(host, cpu=change(host.cpu, available_cpus=2)),
        change(host, cpu=change(host.cpu, physical_cores=8)),
        change(host, cpu=change(host.cpu, isa=("avx2",))),
        change(host, memory=Memory(256 * GIB)),
        change(host, gpus=(Gpu("RTX 4090"),)),
    ]
    prints = {one.fingerprint() for one in others}
    assert len(prints) == len(others)
    assert host.fingerprint() not in prints


@pytest.mark.parametrize("installed", [4, 6, 8, 12, 16, 32, 48, 64, 96, 128, 512])
def test_fingerprint_ignores_what_a_kernel_reserves(installed: int) -> None:
    prints = {
        Host(memory=Memory(int(installed * GIB * part))).fingerprint()
        for part in (1.0, 0.98, 0.95, 0.93)
    }
    assert len(prints) == 1


def test_advice(hosts: dict[str, Path]) -> None:
    text = "\n".join(advice(probe_host(hosts["intel-server"])))
    for part in (
        "governor is powersave",
        "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo",
        "8 CPUs on 4 cores",
        "2 NUMA nodes",
    ):
        assert part in text
    assert "virtual machine" not in text
    laptop = "\n".join(advice(probe_host(hosts["intel-laptop"])))
    assert "different kinds (4 + 2 CPUs" in laptop
    assert "Turbo" not in laptop
    guest = "\n".join(advice(probe_host(hosts["amd-vm"])))
    assert "virtual machine" in guest
    assert "Only 2 CPUs are usable" in guest
    assert "governor" not in guest


def test_advice_about_a_quota_and_one_cpu() -> None:
    tips = advice(Host(cpu=Cpu(available_cpus=1, logical_cpus=8, quota_cpus=1.5)))
    assert any("to 1.5 CPUs" in tip and "at 1 or fewer" in tip for tip in tips)
    assert any("Only 1 CPU is usable" in tip for tip in tips)


def test_no_advice_for_a_quiet_host() -> None:
    cpu = Cpu(logical_cpus=8, physical_cores=8, available_cpus=8, numa_nodes=1, kinds=(8,))
    clock = Clock(governor="performance", boost=False)
    assert advice(Host(cpu=cpu, clock=clock, virtualised=False)) == ()


def test_amd_boost_file(tmp_path: Path) -> None:
    host = probe_host(write_tree("== sys/devices/system/cpu/cpufreq/boost\n1\n", tmp_path))
    assert host.clock.boost is True
    assert any("echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost" in t for t in advice(host))


def test_values_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Host().cpu.model = "x"  # type: ignore[misc]
