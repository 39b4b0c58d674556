"""The contract suite that every backend, ours or a third party's, must pass.

Subclass it in a test module; pytest does the rest::

    from harness.testing import BackendContract
    from my_plugin import BACKEND

    class TestMyBackend(BackendContract):
        backend = BACKEND

It builds every offer of the backend on every device that the probe finds, from tiny ONNX models
of its own, and holds the sessions against ``onnx.reference``. An offer that refuses a model with
:class:`~harness.errors.UnsupportedError` is skipped with its reason; fp32 may refuse none.
Where the runtime isn't on the host, everything but the probe is skipped with the probe's problem.

It needs ``pytest`` and ``onnx``, and the variants of :mod:`harness.variants` for the offers that
are built from one.
"""

# ruff: noqa: D102 - a test's name says what it holds

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Optional, TypeVar, Union

import numpy as np
import pytest

from harness.backend import (
    API_VERSION,
    Backend,
    BuildRequest,
    Calibration,
    Converter,
    ConvertRequest,
    DeviceMemory,
    DeviceTimed,
    Feed,
    Offer,
    Queue,
    Session,
)
from harness.errors import BackendError, UnavailableError, UnsupportedError
from harness.testing_models import (
    MODELS,
    MemoryCalibration,
    conv_model,
    embedding_model,
    mlp_model,
    model_specs,
    random_calibration,
    random_feed,
    two_inputs_two_outputs_model,
)
from harness.types import Array, Engine, Precision, Probe, Settings, ShapeRange, TensorSpec

__all__ = [
    "MODELS",
    "BackendContract",
    "Built",
    "Case",
    "MemoryCalibration",
    "conv_model",
    "embedding_model",
    "mlp_model",
    "model_specs",
    "random_calibration",
    "random_feed",
    "two_inputs_two_outputs_model",
]

_Test = TypeVar("_Test", bound=Callable[..., None])

_HANG_S = 60.0  # what opening a file of rubbish may take on a very slow host

_DEPLOY_DRIVER = """
import importlib.util, sys
import numpy as np
for name in ("harness", "backends"):
    sys.modules[name] = None  # the script has to do without them
script, feed, out = sys.argv[1:]
spec = importlib.util.spec_from_file_location("deployed", script)
deployed = importlib.util.module_from_spec(spec)
spec.loader.exec_module(deployed)
outputs = deployed.infer(deployed.load(), dict(np.load(feed)))
np.savez(out, **{name: np.asarray(value) for name, value in outputs.items()})
"""


_BUILT: dict[type, dict[Any, Any]] = {}  # per test class: its cases' engines, or why there is none


def _each(breadth: str) -> Callable[[_Test], _Test]:
    """Narrow a test of ``built`` to fp32: on every model (``fp32 models``) or on one (``fp32``)."""

    def mark(test: _Test) -> _Test:
        test.__dict__["breadth"] = breadth
        return test

    return mark


@dataclass(frozen=True)
class Case:
    """One of :data:`MODELS` built as one offer for one device."""

    model: str
    offer: Offer
    device: str

    def __str__(self) -> str:
        recipe, precision = self.offer.recipe, self.offer.precision
        return f"{self.model}-{precision}-{recipe}-{self.device.replace(':', '')}"


@dataclass(frozen=True)
class Built:
    """A case whose engine exists.

    onnx: the source model's file. workdir: where the engine was built. inputs, outputs: what the
    model declares. strays: files that the build left anywhere but in ``workdir``. fixed: whether
    the engine takes one sample only.
    """

    case: Case
    onnx: str
    engine: Engine
    workdir: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    strays: tuple[str, ...]
    fixed: bool = False

    def feed(self, batch: int = 1, seed: int = 0) -> dict[str, Array]:
        """Random inputs that fit the model, and the engine where that takes one sample only."""
        return random_feed(self.inputs, 1 if self.fixed else batch, seed)


class BackendContract:
    """Subclass with ``backend``, and whatever else of the hooks has to differ."""

    backend: ClassVar[Backend]

    devices: ClassVar[Optional[Sequence[str]]] = None
    """Device ids to test on; None: those that the probe finds."""

    models: ClassVar[Sequence[str]] = tuple(MODELS)
    """Which of :data:`MODELS` the backend is tested with."""

    tolerances: ClassVar[Mapping[Precision, float]] = {
        Precision.FP32: 0.9999,
        Precision.TF32: 0.999,
        Precision.FP16: 0.999,
        Precision.BF16: 0.995,
        Precision.FP8: 0.95,
        Precision.INT8: 0.97,
        Precision.INT8_DYNAMIC: 0.97,
        Precision.INT8_WEIGHTS: 0.99,
        Precision.INT4_WEIGHTS: 0.95,
    }
    """The least cosine of an output with the float32 reference, per precision asked.

    A norm may be off by as much as the angle: a cosine of 0.97 allows 24 %.
    """

    converter: ClassVar[Optional[Converter]] = None
    """What makes of the suite's ONNX what the backend reads, where it reads no ONNX."""

    fixed: ClassVar[bool] = False
    """Whether engines take one sample only: their open axes were fixed by the conversion."""

    replaced: ClassVar[Sequence[tuple[str, Precision]]] = ()
    """(model, precision) that the runtime is known to run as another precision, and says so."""

    def make_variant(
        self, offer: Offer, source: str, workdir: str, calibration: Calibration
    ) -> str:
        """The file that ``offer`` is built from; ``workdir`` is an empty folder to put it in."""
        from harness import variants

        if offer.recipe not in variants.SHARED:
            return source
        # No instruction set assumed: the variant that is right on every host.
        recipe = variants.resolve(offer.recipe, offer.precision, isa=frozenset(), device="cpu")
        out = str(Path(workdir) / "variant.onnx")
        try:
            variants.make(recipe, source, out, calibration)
        except UnavailableError as error:
            pytest.skip(f"{error}; to test it: {error.fix}")
        return out

    def settings(self) -> Settings:
        """How sessions are opened where a test doesn't say otherwise."""
        return Settings(threads=1 if "threads" in self.backend.capabilities.settings else None)

    def reference(self, onnx_path: str, feed: Feed) -> dict[str, Array]:
        """What the model's outputs are, in float32."""
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(onnx_path)
        outputs = evaluator.run(None, dict(feed))
        return dict(zip(evaluator.output_names, outputs))

    # What follows is the suite.

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Give each test the cases that it asks for: all, fp32 on every model, or one of those."""
        if "case" in metafunc.fixturenames:
            breadth = metafunc.function.__dict__.get("breadth", "every offer")
            metafunc.parametrize("case", self._cases(breadth), ids=str)

    @pytest.fixture(autouse=True)
    def _silence(self, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
        yield
        out = capfd.readouterr().out
        assert not out, f"stdout belongs to the harness, but the backend printed: {out[:500]}"

    @pytest.fixture
    def built(self, case: Case, tmp_path_factory: pytest.TempPathFactory) -> Built:
        """The case's engine, built once per class; skips when the backend refuses the case."""
        done = _BUILT.setdefault(type(self), {})
        if case not in done:
            done[case] = self._try_build(case, tmp_path_factory.mktemp("case"))
        outcome = done[case]
        if isinstance(outcome, Built):
            return outcome
        if case.offer.precision is Precision.FP32:
            pytest.fail(f"fp32 must work on every model, but: {outcome}")
        pytest.skip(outcome)

    def test_describes_itself(self) -> None:
        backend, capabilities = self.backend, self.backend.capabilities
        assert backend.api == API_VERSION
        assert re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", backend.name)
        json.dumps(dataclasses.asdict(capabilities))
        assert capabilities.formats, "no model format is offered"
        assert capabilities.install.strip(), "no command says how to install the runtime"
        offers = [(offer.precision, offer.recipe) for offer in capabilities.offers]
        assert len(set(offers)) == len(offers), "an offer is listed twice"
        assert Precision.FP32 in dict(offers), "fp32 is the baseline of every comparison"
        assert set(capabilities.settings) <= {field.name for field in dataclasses.fields(Settings)}

    def test_probe_says_what_is_here_or_what_to_do(self) -> None:
        probe = self.backend.probe()
        json.dumps(dataclasses.asdict(probe))
        assert probe.backend == self.backend.name
        if probe.problem is not None:
            assert probe.problem.strip()
            assert probe.fix, "a problem names the command that fixes it"
            return
        assert probe.versions
        assert all(name and version for name, version in probe.versions)
        ids = [device.id for device in probe.devices]
        assert ids, "usable, yet without a device: that is a problem"
        assert len(set(ids)) == len(ids)
        assert ids == [device_id.lower() for device_id in ids]
        assert self.backend.probe() == probe, "a second probe says something else"
        for modules in self.backend.capabilities.modules:
            assert any(importlib.util.find_spec(name) for name in modules.split("|"))

    def test_build_writes_what_it_names_and_nothing_else(self, built: Built) -> None:
        assert not built.strays, "a build writes in its folder only"
        engine = built.engine
        main = Path(engine.path).resolve()
        assert main.parent.is_relative_to(built.workdir.resolve())
        files = [main.parent / name for name in engine.files]
        assert main in files, "the engine's files include its main file"
        assert all(not Path(name).is_absolute() for name in engine.files)
        assert all(file.is_file() for file in files)
        assert all(file.resolve().is_relative_to(built.workdir.resolve()) for file in files)
        assert engine.size_bytes == sum(file.stat().st_size for file in files) > 0
        json.dumps(dataclasses.asdict(engine))

    def test_sessions_show_the_models_own_inputs_and_outputs(self, built: Built) -> None:
        with self._open(built) as session:
            _assert_specs(session.inputs, built.inputs, fixed=self.fixed)
            _assert_specs(session.outputs, built.outputs, fixed=self.fixed)

    def test_outputs_agree_with_the_reference(self, built: Built) -> None:
        tolerance = self.tolerances[built.case.offer.precision]
        with self._open(built) as session:
            for seed, batch in enumerate((1, 3, 1)):
                feed = built.feed(batch, seed)
                got = infer(session, feed)
                wanted = self.reference(built.onnx, feed)
                assert list(got) == [spec.name for spec in built.outputs]
                for spec in built.outputs:
                    assert got[spec.name].dtype == np.dtype(spec.dtype)
                    _assert_close(got[spec.name], wanted[spec.name], tolerance, spec.name)

    def test_executed_says_what_ran(self, built: Built) -> None:
        with self._open(built) as session:
            infer(session, built.feed())
            executed = session.executed
        if executed is None:
            pytest.skip("the runtime can't tell")
        json.dumps(dataclasses.asdict(executed))
        assert executed.devices
        for share in (*executed.devices, *executed.precisions):
            assert share.name
            assert share.count > 0
        asked = built.case.offer.precision
        device = self.backend.probe().device(built.case.device)
        if executed.precisions and device is not None and asked in device.precisions:
            name = asked.runs_as
            if (built.case.model, asked) in self.replaced and not executed.share(name):
                pytest.skip(f"known to be replaced, and reported so: {executed}")
            assert executed.share(name) > 0, f"{asked} was asked, but {executed} ran"

    def test_an_engine_can_be_moved(self, built: Built, tmp_path: Path) -> None:
        feed = built.feed(2)
        with self._open(built) as session:
            wanted = infer(session, feed)
        moved = dataclasses.replace(built, engine=_copy(built.engine, tmp_path))
        with _absent(built.workdir.parent), self._open(moved) as session:
            _assert_same(infer(session, feed), wanted)

    def test_deploy_code_does_what_the_session_does(self, built: Built, tmp_path: Path) -> None:
        feed = built.feed(2)
        with self._open(built) as session:
            wanted = infer(session, feed)
        moved = _copy(built.engine, tmp_path / "deployed")
        code = self.backend.deploy_code(moved, built.case.device, self.settings())
        script = Path(moved.path).with_name("deployed_engine.py")
        compile(code, str(script), "exec")
        script.write_text(code, encoding="utf-8")
        np.savez(tmp_path / "feed.npz", **feed)  # type: ignore[arg-type]
        command = [sys.executable, "-c", _DEPLOY_DRIVER, str(script)]
        done = subprocess.run(
            [*command, "feed.npz", "out.npz"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "out.npz") as outputs:
            _assert_same(dict(outputs), wanted)

    @_each("fp32 models")
    def test_a_run_repeats_and_follows_its_feed(self, built: Built) -> None:
        first, second = built.feed(seed=1), built.feed(seed=2)
        with self._open(built) as session:
            wanted = infer(session, first)
            session.run()
            _assert_same(session.fetch(), wanted)
            _assert_same(session.fetch(), wanted)
            other = infer(session, second)
            for name, value in other.items():
                assert not np.allclose(value, wanted[name]), f"{name} is that of an earlier feed"
            _assert_same(infer(session, first), wanted)

    @_each("fp32 models")
    def test_each_input_matters(self, built: Built) -> None:
        feed = built.feed(seed=1)
        with self._open(built) as session:
            wanted = infer(session, feed)
            for name, value in built.feed(seed=2).items():
                got = infer(session, {**feed, name: value})
                assert any(not np.allclose(got[key], wanted[key]) for key in wanted), name

    @_each("fp32 models")
    def test_the_feed_is_copied_and_left_alone(self, built: Built) -> None:
        feed = built.feed(2)
        kept = {name: value.copy() for name, value in feed.items()}
        with self._open(built) as session:
            wanted = infer(session, feed)
            _assert_same(feed, kept, exact=True)
            session.bind(feed)
            for value in feed.values():
                value[...] = 0
            session.run()
            outputs = session.fetch()
            _assert_same(outputs, wanted)
            for output in outputs.values():
                assert not any(np.shares_memory(output, value) for value in feed.values())

    @_each("fp32 models")
    def test_the_memory_layout_of_a_feed_is_free(self, built: Built) -> None:
        feed = built.feed(2)
        strided = {name: np.repeat(value, 2, axis=-1)[..., ::2] for name, value in feed.items()}
        fortran = {name: np.asfortranarray(value) for name, value in feed.items()}
        with self._open(built) as session:
            wanted = infer(session, feed)
            _assert_same(infer(session, strided), wanted)
            _assert_same(infer(session, fortran), wanted)
            for value in feed.values():
                value.setflags(write=False)
            _assert_same(infer(session, feed), wanted)

    @_each("fp32 models")
    @pytest.mark.parametrize("fault", ["missing", "extra", "dtype", "rank", "dimension"])
    def test_a_wrong_feed_is_refused_by_name(self, built: Built, fault: str) -> None:
        feed = built.feed(2)
        with self._open(built) as session:
            wanted = infer(session, feed)
            for spec in built.inputs:
                name, wrong = _spoil(feed, spec.name, fault)
                with pytest.raises(BackendError, match=re.escape(name)):
                    session.bind(wrong)
            _assert_same(infer(session, feed), wanted)

    @_each("fp32 models")
    def test_an_asynchronous_queue_completes_every_slot(self, built: Built) -> None:
        feed, in_flight = built.feed(2), 3
        settings = dataclasses.replace(self.settings(), in_flight=in_flight)
        with self._open(built, settings) as session:
            if not isinstance(session, Queue):
                pytest.skip("the runtime has no queue of its own")
            session.bind_slots(feed, in_flight)
            for slot in range(in_flight):
                session.start(slot)
            done = [0] * in_flight
            for _ in range(5 * in_flight):
                slot = session.wait_any()
                done[slot] += 1
                session.start(slot)
            assert {session.wait_any() for _ in range(in_flight)} == set(range(in_flight))
            assert sum(done) == 5 * in_flight
            wanted = self.reference(built.onnx, feed)
            for name, value in infer(session, feed).items():
                _assert_close(value, wanted[name], self.tolerances[Precision.FP32], name)

    @_each("fp32 models")
    def test_a_device_that_times_computes_too(self, built: Built) -> None:
        with self._open(built) as session:
            if not isinstance(session, DeviceTimed):
                pytest.skip("no device with a clock of its own")
            infer(session, built.feed(2, seed=1))
            feed = built.feed(2)
            session.bind(feed)
            parts = session.run_timed()
            assert parts.compute_ns > 0
            assert min(parts.h2d_ns, parts.d2h_ns, parts.enqueue_ns) >= 0
            timed = {name: value.copy() for name, value in session.fetch().items()}
            _assert_same(timed, infer(session, feed))
            if isinstance(session, DeviceMemory) and session.device_bytes is not None:
                assert session.device_bytes > 0

    @_each("fp32")
    def test_building_twice_gives_two_engines_that_work(self, built: Built, tmp_path: Path) -> None:
        again = self._try_build(built.case, tmp_path)
        assert isinstance(again, Built), again
        feed = built.feed()
        with self._open(built) as first, self._open(again) as second:
            _assert_same(infer(second, feed), infer(first, feed))

    @_each("fp32")
    @pytest.mark.parametrize("threads", [1, 2])
    def test_threads_can_be_set(self, built: Built, threads: int) -> None:
        if "threads" not in self.backend.capabilities.settings:
            pytest.skip("the backend has no setting of threads")
        feed = built.feed()
        with self._open(built, Settings(threads=threads)) as session:
            self._assert_right(session, built, feed)

    @_each("fp32")
    def test_unknown_options_and_devices_are_refused(self, built: Built) -> None:
        settings = Settings(options=(("no_such_option", "1"),))
        with pytest.raises(BackendError, match=r"(?i)no_such_option"):  # runtimes shout
            self.backend.open(built.engine, built.case.device, settings)
        with pytest.raises(UnavailableError, match="gpu:99"):
            self.backend.open(built.engine, "gpu:99", self.settings())

    @_each("fp32")
    @pytest.mark.parametrize("rubbish", [b"", b"this is no model\n" * 64], ids=["empty", "text"])
    def test_rubbish_is_an_error_and_not_a_crash(
        self, built: Built, rubbish: bytes, tmp_path: Path
    ) -> None:
        source, workdir = tmp_path / Path(built.onnx).name, tmp_path / "engine"
        source.write_bytes(rubbish)
        workdir.mkdir()
        case = built.case
        request = BuildRequest(str(source), Precision.FP32, case.offer.recipe, case.device)
        moved = _copy(built.engine, tmp_path / "moved")
        Path(moved.path).write_bytes(rubbish)

        def build_and_open() -> None:
            engine = self.backend.build(request, str(workdir))
            self.backend.open(engine, built.case.device, self.settings())

        for action in (
            build_and_open,
            lambda: self.backend.open(moved, built.case.device, self.settings()),
        ):
            assert isinstance(_outcome(action), Exception), "rubbish was taken for a model"

    @_each("fp32")
    def test_close_is_safe_twice_and_leaves_others_open(self, built: Built) -> None:
        feed = built.feed()
        with self._open(built) as kept:
            wanted = infer(kept, feed)
            for _ in range(3):
                with self._open(built) as session:
                    _assert_same(infer(session, feed), wanted)
                session.close()
            _assert_same(infer(kept, feed), wanted)

    @_each("fp32")
    def test_sessions_run_side_by_side_in_threads(self, built: Built) -> None:
        feeds = [built.feed(seed=seed) for seed in (1, 2)]
        with self._open(built) as left, self._open(built) as right:
            sessions = (left, right)
            wanted = [infer(session, feed) for session, feed in zip(sessions, feeds, strict=True)]
            start = threading.Barrier(2)

            def work(index: int) -> None:
                start.wait()
                for _ in range(20):
                    _assert_same(infer(sessions[index], feeds[index]), wanted[index])

            threads = [_Thread(functools.partial(work, index)) for index in (0, 1)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert [thread.error for thread in threads] == [None, None]

    # How it is done.

    def _cases(self, breadth: str) -> list[Any]:
        devices, reason = self._devices()
        if not devices:
            return [pytest.param(None, id="unusable", marks=pytest.mark.skip(reason=reason))]
        offers = [
            offer
            for offer in self.backend.capabilities.offers
            if breadth == "every offer" or offer.precision is Precision.FP32
        ]
        models = self.models[:1] if breadth == "fp32" else self.models
        return [
            Case(model, offer, device) for model in models for offer in offers for device in devices
        ]

    def _devices(self) -> tuple[Sequence[str], str]:
        if self.devices is not None:
            return self.devices, "the test class names no device"
        probe = _probe(self.backend)
        return [device.id for device in probe.devices], probe.problem or "the probe finds no device"

    def _try_build(self, case: Case, root: Path) -> Union[Built, str]:
        """Build the case under ``root``; the reason where the backend refuses it."""
        import onnx

        device = self.backend.probe().device(case.device)
        if case.offer.native and (device is None or case.offer.precision not in device.precisions):
            return f"{case.device} doesn't list {case.offer.precision}, which the offer asks for"
        for name in ("source", "variant", "engine"):
            (root / name).mkdir()
        source = str(root / "source" / f"{case.model}.onnx")
        model = MODELS[case.model]()
        onnx.save(model, source)
        inputs, outputs = model_specs(model)
        calibration = random_calibration(inputs)
        try:
            variant = self.make_variant(case.offer, source, str(root / "variant"), calibration)
            ports = None
            if self.converter is not None:
                (root / "converted").mkdir()
                feed = random_feed(inputs, 1, 0)
                shapes = tuple((name, value.shape) for name, value in feed.items())
                wanted = ConvertRequest(variant, inputs, outputs, shapes)
                converted = self.converter.convert(wanted, str(root / "converted"))
                variant, ports = converted.path, converted.ports
            request = BuildRequest(
                model=variant,
                precision=case.offer.precision,
                recipe=case.offer.recipe,
                device=case.device,
                calibration=calibration if case.offer.calibrated else None,
                profiles=(_profile(inputs),) if self.backend.capabilities.ranges else (),
                ports=ports,
            )
            with _strays(root) as strays:
                engine = self.backend.build(request, str(root / "engine"))
        except (UnsupportedError, UnavailableError) as error:
            return f"{type(error).__name__}: {error}"
        workdir, strange = root / "engine", tuple(strays)
        return Built(case, source, engine, workdir, inputs, outputs, strange, self.fixed)

    @contextlib.contextmanager
    def _open(self, built: Built, settings: Optional[Settings] = None) -> Iterator[Session]:
        session = self.backend.open(built.engine, built.case.device, settings or self.settings())
        with contextlib.closing(session):
            yield session

    def _assert_right(self, session: Session, built: Built, feed: Feed) -> None:
        wanted = self.reference(built.onnx, feed)
        tolerance = self.tolerances[built.case.offer.precision]
        for name, value in infer(session, feed).items():
            _assert_close(value, wanted[name], tolerance, name)


def infer(session: Session, feed: Feed) -> dict[str, Array]:
    """Bind, run, fetch; copies of the outputs, which outlive the next run."""
    session.bind(feed)
    session.run()
    return {name: np.array(value) for name, value in session.fetch().items()}


class _Thread(threading.Thread):
    """A daemon thread that keeps what its action raised, None when it raised nothing."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._action = action
        self.error: Optional[BaseException] = None

    def run(self) -> None:
        try:
            self._action()
        except BaseException as error:  # noqa: BLE001 - it is judged by whoever joins
            self.error = error


def _outcome(action: Callable[[], object]) -> Optional[BaseException]:
    """What ``action`` raises; fails the test when it does not come back."""
    thread = _Thread(action)
    thread.start()
    thread.join(_HANG_S)
    assert not thread.is_alive(), f"no answer within {_HANG_S:.0f} s"
    return thread.error


def _probe(backend: Backend) -> Probe:
    """The probe at collection, when a fault must not break the collection of other tests."""
    try:
        return backend.probe()
    except Exception as error:  # noqa: BLE001 - the test of the probe fails with it
        return Probe(backend.name, problem=f"probe() raised {error!r}")


def _assert_specs(
    specs: Sequence[TensorSpec], declared: Sequence[TensorSpec], *, fixed: bool = False
) -> None:
    assert [spec.name for spec in specs] == [spec.name for spec in declared]
    for spec, wanted in zip(specs, declared, strict=True):
        assert spec.dtype == wanted.dtype, spec
        assert len(spec.shape) == len(wanted.shape), spec
        for dim, wanted_dim in zip(spec.shape, wanted.shape, strict=True):
            open_axis = not isinstance(wanted_dim, int)
            may_be_open = open_axis and not fixed
            wrong = dim != (1 if open_axis else wanted_dim)
            assert not isinstance(dim, int) if may_be_open else not wrong, spec


def _assert_close(got: Array, wanted: Array, tolerance: float, name: str) -> None:
    """Cosine and norm within ``tolerance``, a cosine."""
    assert got.shape == wanted.shape, name
    left, right = (array.astype(np.float64).ravel() for array in (got, wanted))
    assert np.isfinite(left).all(), name
    norms = float(np.linalg.norm(left)), float(np.linalg.norm(right))
    assert norms[0] > 0, f"{name}: all zeros"
    cosine = float(left @ right) / (norms[0] * norms[1])
    assert cosine >= tolerance, f"{name}: cosine {cosine:.5f} with the reference"
    off = abs(norms[0] / norms[1] - 1)
    assert off <= np.sqrt(2 * (1 - tolerance)), f"{name}: norm off by {off:.2%}"


def _assert_same(
    got: Mapping[str, Array], wanted: Mapping[str, Array], *, exact: bool = False
) -> None:
    """Equal but for the order of additions, which threads and copies may change."""
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        assert got[name].shape == value.shape, name
        rtol, atol = (0.0, 0.0) if exact else (1e-4, 1e-5 * float(np.abs(value).max()))
        np.testing.assert_allclose(got[name], value, rtol=rtol, atol=atol, err_msg=name)


def _spoil(feed: Mapping[str, Array], name: str, fault: str) -> tuple[str, dict[str, Array]]:
    """A feed that is wrong in one way, and the name that the refusal has to give."""
    value = feed[name]
    if fault == "missing":
        return name, {key: array for key, array in feed.items() if key != name}
    if fault == "extra":
        return "surplus", {**feed, "surplus": value}
    other = np.int32 if np.issubdtype(value.dtype, np.integer) else np.float64
    wrong = {
        "dtype": value.astype(other),
        "rank": value[..., np.newaxis],
        "dimension": np.concatenate([value, value[..., :1]], axis=-1),
    }[fault]
    return name, {**feed, name: wrong}


def _profile(inputs: Sequence[TensorSpec], most: int = 8) -> tuple[ShapeRange, ...]:
    """The shapes that the suite's feeds have."""

    def shape(spec: TensorSpec, batch: int) -> tuple[int, ...]:
        return tuple(dim if isinstance(dim, int) else batch for dim in spec.shape)

    return tuple(
        ShapeRange(spec.name, shape(spec, 1), shape(spec, 2), shape(spec, most)) for spec in inputs
    )


def _copy(engine: Engine, folder: Path) -> Engine:
    """The same engine with all its files in another folder."""
    main = Path(engine.path)
    for name in engine.files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(main.parent / name, target)
    return dataclasses.replace(engine, path=str(folder / main.name))


@contextlib.contextmanager
def _absent(folder: Path) -> Iterator[None]:
    """``folder`` under another name for a while: nothing can be read from it."""
    hidden = folder.with_name(f"{folder.name}-hidden")
    folder.rename(hidden)
    try:
        yield
    finally:
        hidden.rename(folder)


@contextlib.contextmanager
def _strays(root: Path) -> Iterator[list[str]]:
    """Collect what appears in the working directory, the temporary folder or beside the inputs."""
    watched = [root / name for name in ("cwd", "tmp", "source", "variant")]
    for folder in watched[:2]:
        folder.mkdir()

    def files() -> set[str]:
        return {str(path) for folder in watched for path in folder.rglob("*")}

    before, strays = files(), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "cwd")
        patch.setenv("TMPDIR", str(root / "tmp"))
        patch.setattr(tempfile, "tempdir", str(root / "tmp"))
        yield strays
    strays.extend(sorted(files() - before))
