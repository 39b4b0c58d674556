"""What this host is: its CPU, memory, GPUs and whatever disturbs or limits a measurement.

Everything is read from ``/proc``, ``/sys`` and ``/etc`` below a root, so that other machines can be
described to the tests as folders. What can't be read is None: a probe never raises. Only the
NVIDIA GPUs come from a command, ``nvidia-smi``, and only when it is on the PATH.

Sources: the kernel's Documentation/ABI (cpufreq, cacheinfo, topology), cgroups(7), proc(5).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

ISA = (
    *("sse4_1", "avx", "avx2", "fma", "f16c"),
    *("avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("neon", "neon_fp16", "neon_dotprod", "i8mm", "bf16", "sve", "sve2"),
)
"""The project's names of the instruction sets that matter for inference."""

# The kernel's own names where they differ from ours (arch/arm64/kernel/cpuinfo.c).
_ISA_OF_FLAG = {name: name for name in ISA if not name.startswith("neon_")} | {
    "asimd": "neon",
    "asimdhp": "neon_fp16",
    "asimddp": "neon_dotprod",
}

_VENDORS = {
    "GenuineIntel": "Intel",
    "AuthenticAMD": "AMD",
    "HygonGenuine": "Hygon",
    "0x41": "Arm",
    "0x46": "Fujitsu",
    "0x48": "HiSilicon",
    "0x4e": "NVIDIA",
    "0x51": "Qualcomm",
    "0x61": "Apple",
    "0xc0": "Ampere",
}

# Arm CPUs name themselves by number only; the names are those of util-linux's lscpu-arm.c.
_ARM_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd0d"): "Cortex-A77",
    ("0x41", "0xd0e"): "Cortex-A76AE",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd44"): "Cortex-X1",
    ("0x41", "0xd46"): "Cortex-A510",
    ("0x41", "0xd47"): "Cortex-A710",
    ("0x41", "0xd48"): "Cortex-X2",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4b"): "Cortex-A78C",
    ("0x41", "0xd4d"): "Cortex-A715",
    ("0x41", "0xd4e"): "Cortex-X3",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd80"): "Cortex-A520",
    ("0x41", "0xd81"): "Cortex-A720",
    ("0x41", "0xd82"): "Cortex-X4",
    ("0x4e", "0x004"): "Carmel",
    ("0xc0", "0xac3"): "Ampere-1",
}

_VIRTUAL = re.compile(
    r"qemu|kvm|vmware|virtualbox|virtual machine|\bxen\b|domu|bochs|parallels|bhyve|openstack"
    r"|google compute engine|amazon ec2|firecracker",
    re.IGNORECASE,
)
# What boards say whose maker filled in nothing.
_PLACEHOLDER = re.compile(
    r"to be filled|default string|system (product|manufacturer)"
    r"|not (specified|applicable)|^o\.?e\.?m",
    re.IGNORECASE,
)
_MAX_CPUS = 65_536
_GPU_QUERIES = (
    "name,memory.total,driver_version,compute_cap,power.limit",
    "name,memory.total,driver_version",  # drivers before 510 refuse compute_cap
)
_GPU_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Caches:
    """Data caches of the first CPU: the size of the one instance that it uses."""

    l1d_bytes: Optional[int] = None
    l2_bytes: Optional[int] = None
    l3_bytes: Optional[int] = None


@dataclass(frozen=True)
class Cpu:
    """The host's processors.

    isa: names of :data:`ISA`, sorted; what all CPUs have. available_cpus: what this process may
    use: its affinity, and no more than the whole CPUs of ``quota_cpus``, which is the cgroup's
    limit where that is lower.
    kinds: logical CPUs per kind of core, the fastest first; one entry where all are alike.
    """

    model: Optional[str] = None
    vendor: Optional[str] = None
    architecture: Optional[str] = None
    isa: tuple[str, ...] = ()
    sockets: Optional[int] = None
    physical_cores: Optional[int] = None
    logical_cpus: Optional[int] = None
    available_cpus: Optional[int] = None
    quota_cpus: Optional[float] = None
    kinds: tuple[int, ...] = ()
    numa_nodes: Optional[int] = None
    caches: Caches = field(default_factory=Caches)


@dataclass(frozen=True)
class Clock:
    """Frequency control: the limits in force over all CPUs.

    governor: several different ones are joined by ``+``. boost: turbo on or off. boost_path: the
    file that switches it, which ``boost_off`` is to be written to.
    """

    governor: Optional[str] = None
    min_hz: Optional[int] = None
    max_hz: Optional[int] = None
    boost: Optional[bool] = None
    boost_path: Optional[str] = None
    boost_off: Optional[str] = None


@dataclass(frozen=True)
class Memory:
    """Main memory. limit_bytes: the cgroup's limit where it is below the total."""

    total_bytes: Optional[int] = None
    available_bytes: Optional[int] = None
    limit_bytes: Optional[int] = None

    @property
    def usable_bytes(self) -> Optional[int]:
        """What is available now and within the limit."""
        known = [size for size in (self.available_bytes, self.limit_bytes) if size is not None]
        return min(known) if known else None


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU, as ``nvidia-smi`` describes it."""

    name: str
    memory_bytes: Optional[int] = None
    driver: Optional[str] = None
    compute_capability: Optional[str] = None
    power_limit_watts: Optional[float] = None


@dataclass(frozen=True)
class Host:
    """A machine. machine: its product name, from the device tree or DMI."""

    hostname: Optional[str] = None
    machine: Optional[str] = None
    os: Optional[str] = None
    kernel: Optional[str] = None
    virtualised: Optional[bool] = None
    cpu: Cpu = field(default_factory=Cpu)
    clock: Clock = field(default_factory=Clock)
    memory: Memory = field(default_factory=Memory)
    gpus: tuple[Gpu, ...] = ()

    def fingerprint(self) -> str:
        """16 hex digits of a sha256: equal where absolute figures are comparable.

        CPU, cores, usable CPUs, instruction sets, memory (in steps of the square root of two, as
        kernels reserve varying parts of it) and GPUs. Neither names, kernel, driver nor clocks.
        """
        cpu, total_bytes = self.cpu, self.memory.total_bytes
        value = {
            "cpu": [cpu.vendor, cpu.model, cpu.architecture, list(cpu.isa)],
            "cores": [cpu.sockets, cpu.physical_cores, cpu.logical_cpus, cpu.available_cpus],
            "memory": round(2 * math.log2(total_bytes)) if total_bytes else None,
            "gpus": [[gpu.name, gpu.memory_bytes, gpu.compute_capability] for gpu in self.gpus],
        }
        text = json.dumps(value, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the fingerprint."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {"fingerprint": self.fingerprint(), **plain}


class _Tree:
    """The readable part of a file system; what can't be read is None."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def text(self, path: str) -> Optional[str]:
        try:
            data = (self.root / path).read_bytes()
        except (OSError, ValueError):
            return None
        # device-tree strings end in NUL
        return data.decode("utf-8", "replace").replace("\0", " ").strip() or None

    def number(self, path: str) -> Optional[int]:
        return _int(self.text(path))

    def cpus(self, path: str) -> Optional[frozenset[int]]:
        return parse_cpu_list(self.text(path) or "")


def probe_host(root: Path = Path("/"), gpu_text: Optional[Callable[[], str]] = None) -> Host:
    """Describe the host below ``root``. Never raises.

    gpu_text: what answers for ``nvidia-smi``; by default the command itself on the real root,
    and nothing elsewhere.
    """
    tree, real = _Tree(root), root == Path("/")
    blocks = _cpuinfo(tree)
    memory = _memory(tree)
    machine = _machine(tree)
    query = gpu_text or (_query_gpus if real else str)
    return Host(
        hostname=tree.text("proc/sys/kernel/hostname"),
        machine=machine,
        os=_os_name(tree),
        kernel=tree.text("proc/sys/kernel/osrelease"),
        virtualised=_virtualised(tree, blocks, machine),
        cpu=_cpu(tree, blocks, real=real),
        clock=_clock(tree, _online(tree, blocks) or frozenset()),
        memory=memory,
        gpus=parse_nvidia_smi(query()),
    )


def parse_nvidia_smi(text: str) -> tuple[Gpu, ...]:
    """The GPUs in ``nvidia-smi``'s csv,noheader,nounits answer, MiB and watts.

    A value that the GPU doesn't have (``[N/A]``, ``[Not Supported]``) is None.
    """
    gpus = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) not in {query.count(",") + 1 for query in _GPU_QUERIES} or not cells[0]:
            continue  # a message, not a row
        known = [None if cell.startswith("[") or not cell else cell for cell in cells]
        known += [None] * 2
        mib, watts = _float(known[1]), _float(known[4])
        gpus.append(
            Gpu(
                name=cells[0],
                memory_bytes=None if mib is None else int(mib * 2**20),
                driver=known[2],
                compute_capability=known[3],
                power_limit_watts=watts,
            )
        )
    return tuple(gpus)


def parse_cpu_list(text: str) -> Optional[frozenset[int]]:
    """The CPUs of the kernel's list format (``0-3,8``); None where it is empty or malformed."""
    cpus: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        low, high = _int(first), _int(last if dash else first)
        if low is None or high is None or not 0 <= low <= high < _MAX_CPUS:
            return None
        cpus.update(range(low, high + 1))
    return frozenset(cpus) or None


def _query_gpus() -> str:
    command = shutil.which("nvidia-smi")
    for query in _GPU_QUERIES if command else ():
        assert command is not None
        try:
            done = subprocess.run(
                [command, f"--query-gpu={query}", "--format=csv,noheader,nounits"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_GPU_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            return ""  # a hanging driver would hang again
        if done.returncode == 0:
            return done.stdout.decode("utf-8", "replace")
    return ""


def _int(text: Optional[str]) -> Optional[int]:
    try:
        return int(text or "")
    except ValueError:
        return None


def _float(text: Optional[str]) -> Optional[float]:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _size(text: Optional[str]) -> Optional[int]:
    """Bytes of ``32K``, ``30720K``, ``32M`` or ``24684092 kB``."""
    found = re.fullmatch(r"([0-9]{1,15})\s*([KMG]?)B?", (text or "").strip(), re.IGNORECASE)
    if not found:
        return None
    return int(found[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[found[2].upper()]


def _cpuinfo(tree: _Tree) -> list[dict[str, str]]:
    """One mapping per CPU. Boards append a block about themselves (``Model``), which is dropped."""
    blocks = []
    for paragraph in re.split(r"\n\s*\n", tree.text("proc/cpuinfo") or ""):
        lines = (line.partition(":") for line in paragraph.splitlines())
        block = {key.strip(): value.strip() for key, _, value in lines}
        if "processor" in block:
            blocks.append(block)
    return blocks


def _online(tree: _Tree, blocks: list[dict[str, str]]) -> Optional[frozenset[int]]:
    listed = tree.cpus("sys/devices/system/cpu/online")
    numbers = (_int(block["processor"]) for block in blocks)
    return listed or frozenset(n for n in numbers if n is not None) or None


def _cpu(tree: _Tree, blocks: list[dict[str, str]], *, real: bool) -> Cpu:
    first = blocks[0] if blocks else {}
    online = _online(tree, blocks) or frozenset()
    allowed, quota_cpus = _allowed_cpus(tree, online, real=real), _quota_cpus(tree)
    if quota_cpus is not None and quota_cpus >= (allowed or math.inf):
        quota_cpus = None
    vendor = first.get("vendor_id") or first.get("CPU implementer")
    # a node without CPUs is a memory expander, or a GPU's memory
    nodes = tree.cpus("sys/devices/system/node/has_cpu") or tree.cpus(
        "sys/devices/system/node/online"
    )
    return Cpu(
        model=_cpu_model(blocks),
        vendor=_VENDORS.get(vendor, vendor) if vendor else None,
        architecture=_architecture(tree, first) or (platform.machine() or None if real else None),
        isa=_isa(blocks),
        sockets=_distinct(tree, online, ("topology/physical_package_id",)),
        physical_cores=_distinct(
            tree, online, ("topology/core_cpus_list", "topology/thread_siblings_list")
        ),
        logical_cpus=len(online) or None,
        # rounded down: a thread more than the quota pays for is stopped in the middle of its work
        available_cpus=allowed if quota_cpus is None else max(1, math.floor(quota_cpus)),
        quota_cpus=quota_cpus,
        kinds=_kinds(tree, online, blocks),
        numa_nodes=len(nodes) if nodes else None,
        caches=_caches(tree, min(online, default=0)),
    )


def _cpu_model(blocks: list[dict[str, str]]) -> Optional[str]:
    names: dict[str, None] = {}  # ordered: a phone's chip has two or three kinds of cores
    for block in blocks:
        implementer, part = block.get("CPU implementer"), block.get("CPU part")
        known = _ARM_PARTS.get((implementer or "", part or ""))
        unnamed = f"{_VENDORS.get(implementer, implementer)} {part}" if implementer else None
        name = block.get("model name") or known or unnamed
        if name:
            names[" ".join(name.split())] = None
    return " + ".join(names) or None


def _architecture(tree: _Tree, first: dict[str, str]) -> Optional[str]:
    named = tree.text("proc/sys/kernel/arch")  # since Linux 6.1
    if named or not first:
        return named
    if "flags" in first:
        return "x86_64" if "lm" in first["flags"].split() else "i686"
    return {"8": "aarch64", "7": "armv7l"}.get(first.get("CPU architecture", ""))


def _flags(block: dict[str, str]) -> frozenset[str]:
    return frozenset((block.get("flags") or block.get("Features") or "").split())


def _isa(blocks: list[dict[str, str]]) -> tuple[str, ...]:
    if not blocks:
        return ()
    common = frozenset.intersection(*(_flags(block) for block in blocks))
    return tuple(sorted(_ISA_OF_FLAG[flag] for flag in common if flag in _ISA_OF_FLAG))


def _distinct(tree: _Tree, cpus: Iterable[int], names: tuple[str, ...]) -> Optional[int]:
    """How many different values the CPUs have in the first of these files that they have."""
    for name in names:
        values = {tree.text(f"sys/devices/system/cpu/cpu{cpu}/{name}") for cpu in cpus} - {None}
        if values:
            return len(values)
    return None


def _allowed_cpus(tree: _Tree, online: frozenset[int], *, real: bool) -> Optional[int]:
    """How many CPUs this process may be scheduled on."""
    if real and hasattr(os, "sched_getaffinity"):
        allowed: Optional[frozenset[int]] = frozenset(os.sched_getaffinity(0))
    else:
        status = tree.text("proc/self/status") or ""
        found = re.search(r"^Cpus_allowed_list:\s*(\S+)", status, re.MULTILINE)
        allowed = parse_cpu_list(found[1]) if found else None
    # the mask may name CPUs that could be plugged in but aren't there
    return len(allowed & online if allowed and online else allowed or online) or None


def _kinds(tree: _Tree, online: frozenset[int], blocks: list[dict[str, str]]) -> tuple[int, ...]:
    core, atom = (tree.cpus(f"sys/devices/cpu_{kind}/cpus") for kind in ("core", "atom"))
    if core and atom:
        return (len(core), len(atom))
    if blocks and "CPU implementer" in blocks[0]:
        # only on Arm: elsewhere capacities differ between like cores that merely boost higher
        paths = (f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity" for cpu in online)
        counts: dict[int, int] = {}
        for capacity in map(tree.number, paths):
            if capacity is not None:
                counts[capacity] = counts.get(capacity, 0) + 1
        if sum(counts.values()) == len(online):
            return tuple(counts[capacity] for capacity in sorted(counts, reverse=True))
    return (len(online),) if online else ()


def _caches(tree: _Tree, cpu: int) -> Caches:
    sizes: dict[int, Optional[int]] = {}
    for index in range(8):
        base = f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
        level = tree.number(f"{base}/level")
        if level is not None and tree.text(f"{base}/type") != "Instruction":
            sizes[level] = _size(tree.text(f"{base}/size"))
    return Caches(l1d_bytes=sizes.get(1), l2_bytes=sizes.get(2), l3_bytes=sizes.get(3))


def _clock(tree: _Tree, online: frozenset[int]) -> Clock:
    def read(name: str) -> list[str]:
        paths = (f"sys/devices/system/cpu/cpu{cpu}/cpufreq/{name}" for cpu in sorted(online))
        return [text for text in map(tree.text, paths) if text]

    def khz(kind: str) -> list[int]:
        found = map(_int, read(f"scaling_{kind}_freq") or read(f"cpuinfo_{kind}_freq"))
        return [value for value in found if value is not None and value > 0]

    low, high = khz("min"), khz("max")
    boost, path, off = _boost(tree)
    return Clock(
        governor="+".join(sorted(set(read("scaling_governor")))) or None,
        min_hz=min(low) * 1000 if low else None,
        max_hz=max(high) * 1000 if high else None,
        boost=boost,
        boost_path=path,
        boost_off=off,
    )


def _boost(tree: _Tree) -> tuple[Optional[bool], Optional[str], Optional[str]]:
    for path, off in (("intel_pstate/no_turbo", "1"), ("cpufreq/boost", "0")):
        full = f"sys/devices/system/cpu/{path}"
        value = tree.text(full)
        if value in {"0", "1"}:
            return value != off, f"/{full}", off
    return None, None, None


def _cgroup_folders(tree: _Tree, controller: str) -> list[str]:
    """This process's cgroup and all above it, version 1 and 2. Each may set a limit."""
    folders = []
    for line in (tree.text("proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            bases = {"sys/fs/cgroup", "sys/fs/cgroup/unified"}
        elif controller in controllers.split(","):
            bases = {f"sys/fs/cgroup/{controllers}", f"sys/fs/cgroup/{controller}"}
        else:
            continue
        parts = [part for part in path.split("/") if part]
        if ".." in parts:  # our cgroup lies outside what this container sees
            parts = []
        folders += [
            "/".join((base, *parts[:depth])) for base in bases for depth in range(len(parts) + 1)
        ]
    return folders


def _quota_cpus(tree: _Tree) -> Optional[float]:
    quotas = []
    for folder in _cgroup_folders(tree, "cpu"):
        words = (tree.text(f"{folder}/cpu.max") or "").split()
        if not words:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            words = [tree.text(f"{folder}/{name}") or "" for name in names]
        quota, period = (_int(word) for word in (*words, "", "")[:2])
        if quota and period and quota > 0 and period > 0:  # "max", or -1, is no limit
            quotas.append(quota / period)
    return min(quotas, default=None)


def _memory(tree: _Tree) -> Memory:
    lines = (line.partition(":") for line in (tree.text("proc/meminfo") or "").splitlines())
    info = {key.strip(): _size(value) for key, _, value in lines}
    total = info.get("MemTotal") or None
    limits = [
        tree.number(f"{folder}/{name}")
        for folder in _cgroup_folders(tree, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
    ]
    # version 1 writes "no limit" as a number beyond any memory
    real = [limit for limit in limits if limit and 0 < limit < (total or 2**62)]
    return Memory(
        total_bytes=total,
        available_bytes=info.get("MemAvailable"),
        limit_bytes=min(real, default=None),
    )


def _machine(tree: _Tree) -> Optional[str]:
    for path in ("proc/device-tree/model", "sys/firmware/devicetree/base/model"):
        model = tree.text(path)
        if model:
            return model
    for vendor, product in (("sys_vendor", "product_name"), ("board_vendor", "board_name")):
        maker, name = (tree.text(f"sys/class/dmi/id/{part}") for part in (vendor, product))
        if name and not _PLACEHOLDER.search(name):
            known = maker and not _PLACEHOLDER.search(maker) and not name.startswith(maker)
            return f"{maker} {name}" if known else name
    return None


def _virtualised(
    tree: _Tree, blocks: list[dict[str, str]], machine: Optional[str]
) -> Optional[bool]:
    if any("hypervisor" in _flags(block) for block in blocks):
        return True
    if tree.text("sys/hypervisor/type") or tree.text("proc/device-tree/hypervisor/compatible"):
        return True
    if machine and _VIRTUAL.search(machine):
        return not machine.endswith(".metal")  # a cloud's bare machines carry the cloud's name
    # x86 would have said so; Arm has no such flag, so a known product has to vouch for it
    return False if machine or (blocks and "flags" in blocks[0]) else None


def _os_name(tree: _Tree) -> Optional[str]:
    text = tree.text("etc/os-release") or tree.text("usr/lib/os-release") or ""
    found = re.search(r"""^PRETTY_NAME=["']?([^"'\n]*)""", text, re.MULTILINE)
    return (found[1].strip() or None) if found else None


_FEW_CPUS = 2


def advice(host: Host) -> tuple[str, ...]:
    """Plain-language tips for measuring on this host, the most useful first."""
    return (*_clock_advice(host), *_cpu_advice(host), *_board_advice(host))


def _clock_advice(host: Host) -> list[str]:
    tips = []
    if host.clock.governor not in {None, "performance"}:
        tips.append(
            f"The CPU frequency governor is {host.clock.governor}, so clocks follow the load. "
            "For steady figures: echo performance | sudo tee "
            "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        )
    if host.clock.boost:
        tips.append(
            "Turbo is on: clocks depend on temperature and on what the other cores do. For figures "
            "that repeat (and are slower): "
            f"echo {host.clock.boost_off} | sudo tee {host.clock.boost_path}"
        )
    if host.virtualised:
        tips.append(
            "This is a virtual machine: its neighbours take time that it can't see. Comparisons "
            "within one session hold; treat absolute figures as experienced here."
        )
    return tips


def _cpu_advice(host: Host) -> list[str]:
    cpu, tips = host.cpu, []
    available, logical, cores = cpu.available_cpus, cpu.logical_cpus, cpu.physical_cores
    if cpu.quota_cpus is not None:
        tips.append(
            f"A cgroup limits this process to {cpu.quota_cpus:g} CPUs: more threads than that are "
            "stopped in the middle of an inference. Raise the limit of the container, or keep "
            f"threads at {available} or fewer."
        )
    elif available and logical and available < logical:
        tips.append(
            f"This process may use {available} of {logical} CPUs (taskset, or a cpuset of the "
            "container): thread counts are chosen for those."
        )
    if available and available <= _FEW_CPUS:
        tips.append(
            f"Only {available} CPU{'s are' if available > 1 else ' is'} usable: anything else that "
            "runs here disturbs the measurement. Stop what you can."
        )
    if logical and cores and logical > cores:
        tips.append(
            f"Simultaneous multithreading is on ({logical} CPUs on {cores} cores): two threads of "
            f"one core share its units, so try {cores} threads or fewer, too. Off: "
            "echo off | sudo tee /sys/devices/system/cpu/smt/control"
        )
    if len(cpu.kinds) > 1:
        kinds = " + ".join(str(count) for count in cpu.kinds)
        tips.append(
            f"The cores are of different kinds ({kinds} CPUs, fastest first): where a thread lands "
            "changes its speed. To use the fast ones only, start under: taskset -c LIST"
        )
    if cpu.numa_nodes and cpu.numa_nodes > 1:
        tips.append(
            f"Memory is spread over {cpu.numa_nodes} NUMA nodes. For one node's figures, start "
            "under: numactl --cpunodebind=0 --membind=0"
        )
    return tips


def _board_advice(host: Host) -> list[str]:
    machine, tips = (host.machine or "").lower(), []
    if "jetson" in machine:
        tips.append(
            "A Jetson's clocks follow its power mode: sudo nvpmodel -q shows it, "
            "sudo jetson_clocks holds the clocks at its maximum."
        )
    if "raspberry pi" in machine:
        tips.append(
            "A Raspberry Pi slows down when hot or short of power: vcgencmd get_throttled must say "
            "throttled=0x0 before and after."
        )
    return tips
