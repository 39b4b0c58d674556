"""Every combination is planned or left out with its reason, exactly once."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness import views
from harness.backend import Capabilities, Offer
from harness.plan import Known, Wishes, find_baseline, make_plan
from harness.types import (
    Candidate,
    Device,
    Precision,
    Probe,
    Scenario,
    Settings,
    Status,
    TensorSpec,
)

FP32, BF16, INT8 = Precision.FP32, Precision.BF16, Precision.INT8
OFFERS = (Offer(FP32, "source"), Offer(BF16, "source", native=True), Offer(INT8, "qdq", True))
FREE = (TensorSpec("x", "float32", ("n", 3)),)
FIXED = (TensorSpec("x", "float32", (1, 3)),)


def known(name="a", precisions=(FP32,), problem=None, settings=("threads",), formats=("onnx",)):
    devices = () if problem else (Device("cpu", "a CPU", precisions),)
    probe = Probe(name, devices=devices, problem=problem, fix="fix it" if problem else None)
    return Known(name, Capabilities(formats, OFFERS, "install it", settings), probe)


def wishes(scenario=Scenario.LATENCY, devices=("cpu",), cores=4, **more):
    return Wishes(scenario, devices, cores, **more)


def reasons(plan):
    return {skip.candidate.precision: (skip.status, skip.reason) for skip in plan.skips}


def test_what_can_run_is_planned_and_the_rest_has_reasons():
    plan = make_plan([known()], wishes(), FREE)
    assert [each.precision for each in plan.candidates] == [FP32, INT8]
    status, reason = reasons(plan)[BF16]
    assert status is Status.UNSUPPORTED
    assert "does not execute bf16 natively" in reason
    assert plan.baseline == plan.candidates[0].id


def test_where_no_device_is_named_each_backend_takes_the_cpu_and_the_first_gpu_that_it_finds():
    def having(*ids: str):
        probe = Probe("b", devices=tuple(Device(each, each, (FP32,)) for each in ids))
        return replace(known("b"), probe=probe)

    def planned(*ids: str):
        plan = make_plan([having(*ids)], wishes(devices=(), precisions=(FP32,)), FREE)
        assert not plan.skips
        return [each.device for each in plan.candidates]

    assert planned("cpu", "npu") == ["cpu"]
    assert planned("cpu", "gpu:0", "gpu:1") == ["cpu", "gpu:0"]
    assert planned("gpu:0") == ["gpu:0"]


def test_an_engine_as_it_is_has_no_options_of_a_build_that_was_not_ours():
    able = replace(known().capabilities, build_options=("level",), engine_formats=("engine",))
    options = {"a": {"level": ("1", "5"), "graph": ("on", "off")}}
    wish = wishes(options=options, engines={"my.engine": "/there/my.engine"}, precisions=(FP32,))
    plan = make_plan([replace(known(), capabilities=able)], wish, FREE)
    mine = [each.settings for each in plan.candidates if each.precision is Precision.AS_IS]
    assert [(each.build, each.options) for each in mine] == [
        ((), (("graph", "on"),)),
        ((), (("graph", "off"),)),
    ]
    assert len(plan.candidates) == 4 + 2


@pytest.mark.parametrize(
    ("backend", "wish", "inputs", "samples", "status", "words"),
    [
        (known(problem="no module"), wishes(), FREE, 1, Status.UNAVAILABLE, "no module"),
        (known(formats=("tflite",)), wishes(), FREE, 1, Status.UNSUPPORTED, "from onnx"),
        (  # mending it would be in vain
            known(problem="no module", formats=("tflite",)),
            wishes(),
            FREE,
            1,
            Status.UNSUPPORTED,
            "from onnx",
        ),
        (known(), wishes(devices=("gpu:7",)), FREE, 1, Status.UNAVAILABLE, "no device gpu:7"),
        (known(), wishes(precisions=(INT8,)), FREE, 0, Status.UNSUPPORTED, "no calibration"),
        (
            known(),
            wishes(Scenario.THROUGHPUT, batch=(8,), precisions=(FP32,)),
            FIXED,
            1,
            Status.UNSUPPORTED,
            "batch 8",
        ),
    ],
)
def test_every_skip_says_why(backend, wish, inputs, samples, status, words):
    plan = make_plan([backend], wish, inputs, calibration_samples=samples)
    assert plan.candidates == ()
    assert all(skip.status is status and words in skip.reason for skip in plan.skips)
    assert plan.baseline is None


def test_compound_devices_are_the_runtimes_to_judge():
    plan = make_plan([known()], wishes(devices=("auto:gpu,cpu",)), FREE)
    assert {each.device for each in plan.candidates} == {"auto:gpu,cpu"}


@given(
    st.lists(st.sampled_from(["a", "b", "onnxruntime"]), unique=True, min_size=1),
    st.lists(st.sampled_from(["cpu", "gpu:0", "auto"]), unique=True, min_size=1),
    st.lists(st.integers(1, 4), unique=True),
    st.sampled_from(list(Scenario)),
    st.booleans(),
)
def test_each_combination_appears_once(names, devices, threads, scenario, own_streams):
    settings = ("threads", "streams") if own_streams else ("threads",)
    backends = [known(name, settings=settings) for name in names]
    wish = wishes(scenario, tuple(devices), threads=tuple(threads))
    plan = make_plan(backends, wish, FREE)
    everything = [c.id for c in plan.candidates] + [s.candidate.id for s in plan.skips]
    assert len(everything) == len(set(everything))
    assert len(everything) % (len(names) * len(devices) * len(OFFERS)) == 0
    assert plan == make_plan(backends, wish, FREE)


@pytest.mark.parametrize("own_streams", [False, True])
def test_throughput_settings_share_out_the_cores(own_streams):
    settings = ("threads", "streams") if own_streams else ("threads",)
    plan = make_plan([known(settings=settings)], wishes(Scenario.THROUGHPUT), FREE)
    for each in plan.candidates:
        chosen = each.settings
        sessions = chosen.processes * (1 if own_streams else chosen.streams)
        assert chosen.threads * sessions <= 4
        assert chosen.in_flight == chosen.streams
    assert {c.settings.batch for c in plan.candidates} == {1, 8}


def test_options_are_multiplied_per_backend():
    wish = wishes(precisions=(FP32,), options={"a": {"p": ("1", "2"), "q": ("3",)}})
    plan = make_plan([known("a"), known("b")], wish, FREE)
    assert [c.settings.options for c in plan.candidates] == [
        (("p", "1"), ("q", "3")),
        (("p", "2"), ("q", "3")),
        (),
    ]


def test_options_of_the_build_are_apart_from_those_of_the_session():
    builds = Capabilities(("onnx",), OFFERS, "install it", build_options=("p",))
    wish = wishes(precisions=(FP32,), options={"a": {"p": ("1", "2"), "q": ("3",)}})
    plan = make_plan([replace(known("a"), capabilities=builds)], wish, FREE)
    assert [(c.settings.build, c.settings.options) for c in plan.candidates] == [
        ((("p", "1"),), (("q", "3"),)),
        ((("p", "2"),), (("q", "3"),)),
    ]


def test_engines_as_they_are_go_to_each_backend_that_reads_them():
    reads = Capabilities(("tflite",), OFFERS, "install it", engine_formats=("engine",))
    backends = [known("a"), replace(known("b"), capabilities=reads)]
    broken = replace(known("c", problem="no driver"), capabilities=reads)
    wish = wishes(precisions=(BF16,), engines={"m.engine": "/x/m.engine", "n.xml": "/x/n.xml"})
    plan = make_plan([*backends, broken], wish, FREE)
    assert [each.id for each in plan.candidates] == ["b/as-is/m.engine/cpu/threads=4"]
    as_is = [s for s in plan.skips if s.candidate.precision is Precision.AS_IS]
    assert [(s.candidate.backend, s.reason) for s in as_is] == [("c", "no driver")]


def test_building_ahead_takes_the_library_alone():
    able = replace(known("a").capabilities, ahead=True)
    no_driver = Probe("a", (("a", "1.0"),), problem="no driver", fix="install one")
    no_library = Probe("a", problem="not installed", fix="install it")
    wish = wishes(devices=("gpu:0",), compute_capability="8.9")
    plan = make_plan([Known("a", able, no_driver)], wish, FREE)
    assert [each.precision for each in plan.candidates] == [FP32, BF16, INT8]
    assert not make_plan([Known("a", able, no_driver)], wishes(devices=("gpu:0",)), FREE).candidates
    assert not make_plan([Known("a", able, no_library)], wish, FREE).candidates
    (reason,) = {skip.reason for skip in make_plan([known("a")], wish, FREE).skips}
    assert "only on the machine that runs them" in reason


def test_without_any_data_what_is_calibrated_says_so():
    plan = make_plan([known()], wishes(precisions=(INT8,)), FREE, calibration_samples=None)
    assert "there are none" in reasons(plan)[INT8][1]
    assert plan.skips[0].fix == "--data DATA, or --calibration DATA"


def test_the_baseline_is_onnxruntimes_fp32_where_there_is_one():
    def one(backend, precision):
        return Candidate(backend, precision, "source", "cpu")

    others = [one("a", INT8), one("a", FP32)]
    assert find_baseline(others) == others[1].id
    assert find_baseline([*others, one("onnxruntime", FP32)]).startswith("onnxruntime")
    assert find_baseline(others[:1]) is None


@given(
    st.lists(st.sampled_from(list(Precision)), unique=True),
    st.lists(st.sampled_from(["cpu", "gpu:0", "hetero:gpu,cpu"]), unique=True, min_size=1),
    st.lists(st.integers(1, 4), unique=True, min_size=1),
    st.lists(st.sampled_from(["p", "q", "r"]), unique=True, min_size=1),
)
def test_the_product_of_the_wishes_is_all_there_is(precisions, devices, threads, values):
    more = {"threads": tuple(threads), "options": {"a": {"o": tuple(values)}}}
    wish = wishes(devices=tuple(devices), precisions=tuple(precisions), **more)
    plan = make_plan([known("a")], wish, FREE)
    found = [*plan.candidates, *(skip.candidate for skip in plan.skips)]
    offers = [each for each in OFFERS if not precisions or each.precision in precisions]
    expected = {
        Candidate(
            "a", offer.precision, offer.recipe, device, Settings(threads=n, options=(("o", v),))
        )
        for offer in offers
        for device in devices
        for n in threads
        for v in values
    }
    assert set(found) == expected
    assert len(found) == len(expected)
    if plan.candidates and any(each.precision is FP32 for each in plan.candidates):
        assert plan.baseline in {each.id for each in plan.candidates}


def test_one_core_is_used_once():
    plan = make_plan([known()], wishes(Scenario.THROUGHPUT, cores=1, precisions=(FP32,)), FREE)
    chosen = [each.settings for each in plan.candidates]
    assert [(s.threads, s.streams, s.processes, s.batch) for s in chosen] == [
        (1, 1, 1, 1),
        (1, 1, 1, 8),
    ]


def test_more_processes_than_cores_get_a_thread_each():
    wish = wishes(Scenario.THROUGHPUT, cores=2, processes=(4,), precisions=(FP32,), in_flight=(3,))
    (only,) = make_plan([known()], wish, FREE).candidates
    assert (only.settings.processes, only.settings.threads, only.settings.in_flight) == (4, 1, 3)


@pytest.mark.parametrize(
    ("shape", "refused"), [((8, 3), False), ((None, 3), False), ((), True), ((4, 3), True)]
)
def test_a_batch_must_fit_the_leading_dimension(shape, refused):
    wish = wishes(Scenario.THROUGHPUT, batch=(8,), precisions=(FP32,))
    plan = make_plan([known()], wish, (TensorSpec("x", "float32", shape),))
    assert bool(plan.skips) is refused
    if refused:
        assert plan.skips[0].fix == "export the model with a dynamic batch axis"


def test_what_is_left_out_for_one_reason_is_shown_in_one_line():
    gone = [known(name="gone", problem="no [module]")]
    plan = make_plan([known(), *gone], wishes(devices=("cpu", "gpu:7")), FREE)
    console = Console(width=80, file=io.StringIO())
    console.print(views._skips(plan.skips, plan.candidates))
    text = console.file.getvalue()
    assert "gone, all " in text
    assert text.count("no [module]") == 1
    assert "gone/" not in text
    assert "a/fp32/source/gpu:7" in text
    assert "a, all" not in text, "some are planned"
