from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tomllib
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pipeline import LAB, SMALL

from harness import images, sources, wire
from harness.cache import Cache
from harness.checks import check
from harness.config import SweepConfig, load_sweep
from harness.datasets import Dataset
from harness.errors import InputError, Problem
from harness.images import Preprocessing
from harness.run import resume, sweep
from harness.sources import Source
from harness.testing_models import conv_model
from harness.types import TensorSpec

Array = np.ndarray[Any, Any]
INPUT = TensorSpec("image", "float32", ("batch", 3, 16, 16))
PLAIN = Preprocessing(scale=1.0, mean=(0.0,), std=(1.0,))


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (20, 16), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    values = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(values).save(path)
    return path


def folder(path: Path, *names: str) -> str:
    for seed, name in enumerate(names):
        picture(path / name, seed)
    return str(path)


def refused(step: Callable[[], object]) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        step()
    return caught.value.problems


def labels_of(source: str, declared: Preprocessing = PLAIN) -> list[tuple[str, Any]]:
    return [(each.path.name, each.label) for each in images.find(source, "--data", declared)]


# which images, which labels


def test_sorted_subfolders_are_the_classes(tmp_path: Path) -> None:
    source = folder(tmp_path, "dog/2.png", "cat/b.jpg", "cat/deep/a.webp", "dog/1.bmp")
    (tmp_path / ".hidden").mkdir()
    picture(tmp_path / "dog" / ".thumbnail.png")
    (tmp_path / "dog" / "notes.txt").touch()
    found = [("b.jpg", 0), ("a.webp", 0), ("1.bmp", 1), ("2.png", 1)]
    assert labels_of(source) == found
    assert images.is_folder(source)


def test_the_models_order_of_classes_is_declared(tmp_path: Path) -> None:
    source = folder(tmp_path / "data", "dog/1.png", "cat/2.png")
    declared = replace(PLAIN, classes=("fish", "dog", "cat"))
    assert labels_of(source, declared) == [("2.png", 2), ("1.png", 1)]
    (tmp_path / "names.txt").write_text("dog\n\ncat\n")
    declared = replace(PLAIN, classes_file=str(tmp_path / "names.txt"))
    assert labels_of(source, declared) == [("2.png", 1), ("1.png", 0)]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    source = folder(tmp_path, "b.png", "a.png")
    assert labels_of(source) == [("a.png", None), ("b.png", None)]


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (("1", "0"), [1, 0]),
        (("1", "0.5"), [1.0, 0.5]),
        (("a b", "1"), ["a b", "1"]),
        (("cat", "dog"), [1, 0]),
    ],
)
def test_labels_of_any_kind_stand_in_a_file(
    tmp_path: Path, rows: tuple[str, str], labels: list[Any]
) -> None:
    source = folder(tmp_path, "deep/x.png", "y.png")
    (tmp_path / "labels.csv").write_text(f"file,label\ny.png,{rows[0]}\ndeep/x.png, {rows[1]}\n")
    declared = replace(PLAIN, classes=("dog", "cat"))
    assert labels_of(source, declared) == [("y.png", labels[0]), ("x.png", labels[1])]


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    source = folder(tmp_path / "mixed", "cat/1.png", "loose.png")
    (tmp_path / "mixed" / "empty").mkdir()
    problems = refused(lambda: labels_of(source))
    assert [problem.where for problem in problems] == ["--data", "--data: empty"]
    assert problems[0].what == "1 images beside the subfolders of classes, such as loose.png"
    other = folder(tmp_path / "other", "cta/1.png")
    (problem,) = refused(lambda: labels_of(other, replace(PLAIN, classes=("cat",))))
    assert problem.fix == 'did you mean "cat"?'
    (problem,) = refused(lambda: labels_of(other, replace(PLAIN, classes=("cta", "cta"))))
    assert problem.what == "named twice: cta"
    (problem,) = refused(lambda: labels_of(other, replace(PLAIN, classes_file="nowhere.txt")))
    assert problem.where == "[images] classes"


def test_what_is_wrong_with_a_label_file_is_said(tmp_path: Path) -> None:
    source = folder(tmp_path, "x.png")
    for text, wheres in (
        ("", [""]),
        ("x.png,1\n", [""]),
        ("file,label\n", [""]),
        ("file,label\nx.png\nz.png,2\n", [": line 2", ": line 3"]),
    ):
        (tmp_path / "labels.csv").write_text(text)
        problems = refused(lambda: labels_of(source))
        assert [each.where for each in problems] == [f"--data: labels.csv{w}" for w in wheres]


# what is done to an image


def test_pixels_are_normalised_as_declared(tmp_path: Path) -> None:
    path = picture(tmp_path / "x.png", size=(5, 4))
    pixels = np.asarray(Image.open(path)).astype(np.float32)
    mean, std = np.float32([0.5, 0.4, 0.3]), np.float32([0.2, 0.3, 0.4])
    declared = replace(PLAIN, scale=255.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    expected = (pixels / np.float32(255) - mean) / std
    made = images.load(path, declared, "float32")
    assert made.flags.c_contiguous
    np.testing.assert_array_equal(made, expected.transpose(2, 0, 1))
    np.testing.assert_array_equal(
        images.load(path, replace(declared, layout="nhwc"), "float32"), expected
    )
    swapped = images.load(path, replace(PLAIN, channels="bgr"), "uint8")
    np.testing.assert_array_equal(swapped, pixels[:, :, ::-1].transpose(2, 0, 1))
    gray = images.load(path, replace(PLAIN, channels="gray"), "float32")
    np.testing.assert_array_equal(gray[0], np.asarray(Image.open(path).convert("L")))
    np.testing.assert_array_equal(
        images.load(path, replace(PLAIN, mean=(128.0,)), "int8"),
        (pixels - 128).transpose(2, 0, 1).astype(np.int8),
    )


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_other_modes_are_converted(tmp_path: Path, mode: str) -> None:
    path = picture(tmp_path / "x.png", mode=mode)
    assert images.load(path, PLAIN, "uint8").shape == (3, 16, 20)


@given(width=st.integers(1, 40), height=st.integers(1, 40), side=st.integers(1, 20))
def test_the_shorter_side_is_resized_and_the_centre_kept(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, side: int
) -> None:
    path = picture(tmp_path_factory.mktemp("one") / "x.png", size=(width, height))
    short = images.load(path, replace(PLAIN, resize=(side,)), "uint8").shape[1:]
    longer = side * max(width, height) // min(width, height)
    assert short == ((side, longer) if height <= width else (longer, side))
    both = replace(PLAIN, resize=(side, side + 1), crop=(side, side))
    assert images.load(path, both, "uint8").shape == (3, side, side)


def test_the_crop_is_the_centre_and_pillow_resizes(tmp_path: Path) -> None:
    path = picture(tmp_path / "x.png", size=(9, 8))
    pixels = np.asarray(Image.open(path))
    cropped = images.load(path, replace(PLAIN, crop=(4, 5), layout="nhwc"), "uint8")
    np.testing.assert_array_equal(cropped, pixels[2:6, 2:7])
    for name in images.INTERPOLATIONS:
        made = images.load(
            path, replace(PLAIN, resize=(4, 3), interpolation=name, layout="nhwc"), "uint8"
        )
        with Image.open(path) as image:
            wanted = image.resize((3, 4), Image.Resampling[name.upper()])
        np.testing.assert_array_equal(made, np.asarray(wanted))


@pytest.mark.parametrize(
    ("declared", "dtype", "what"),
    [
        (replace(PLAIN, crop=(17, 5)), "float32", "16 x 20, smaller than the crop of 17 x 5"),
        (replace(PLAIN, mean=(300.0,)), "uint8", "which uint8 can't hold"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, declared: Preprocessing, dtype: str, what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        images.load(picture(tmp_path / "x.png"), declared, dtype)


def test_sixteen_bits_are_not_clipped_in_silence(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        images.load(tmp_path / "x.png", PLAIN, "float32")


# as a data set


def spooled(source: str, spool: Path, declared: Preprocessing | None = PLAIN) -> Any:
    return sources.find(Source(source, "--data", (INPUT,), declared, str(spool)))


def test_the_same_images_and_declaration_have_the_same_hash(tmp_path: Path) -> None:
    source = folder(tmp_path / "data", "a/1.png", "b/2.png", "b/3.png")
    first, again = (spooled(source, tmp_path / "spool") for _ in range(2))
    assert first.shards != again.shards
    assert first.sha256 == again.sha256
    assert (first.source, first.samples, first.labelled) == (source, 3, True)
    assert Dataset(first).labels().tolist() == [0, 1, 1]
    assert spooled(source, tmp_path / "spool", replace(PLAIN, scale=2.0)).sha256 != first.sha256
    picture(tmp_path / "data" / "b" / "3.png", seed=9)
    assert spooled(source, tmp_path / "spool").sha256 != first.sha256


def test_images_of_several_sizes_are_shards_of_their_own(tmp_path: Path) -> None:
    for seed, size in enumerate([(4, 4), (4, 4), (8, 4)]):
        picture(tmp_path / "data" / f"{seed}.png", seed, size)
    data = spooled(str(tmp_path / "data"), tmp_path / "spool")
    assert [shard.samples for shard in data.shards] == [2, 1]
    assert not data.labelled


def test_all_broken_images_are_named_at_once(tmp_path: Path) -> None:
    source = folder(tmp_path / "data", "a/1.png", "b/2.png")
    (tmp_path / "data" / "a" / "0.png").write_bytes(b"not an image")
    whole = (tmp_path / "data" / "b" / "2.png").read_bytes()
    (tmp_path / "data" / "b" / "3.png").write_bytes(whole[: len(whole) // 2])
    problems = refused(lambda: spooled(source, tmp_path / "spool"))
    assert [problem.where for problem in problems] == ["--data: a/0.png", "--data: b/3.png"]
    assert str(tmp_path) not in "".join(problem.what for problem in problems)
    for number in range(40):
        (tmp_path / "data" / "a" / f"{number:02}.jpg").touch()
    problems = refused(lambda: spooled(source, tmp_path / "spool"))
    assert len(problems) == 21
    assert problems[-1].what == "and 22 more images that can't be used"


def test_without_a_declaration_a_table_is_shown(tmp_path: Path) -> None:
    (problem,) = refused(lambda: spooled(folder(tmp_path, "1.png"), tmp_path / "s", None))
    assert problem.where == "[images]"
    assert problem.fix is not None
    for key in ("scale", "mean", "std", "resize", "crop", "channels", "layout"):
        assert f"{key} = " in problem.fix


def test_one_input_is_fed(tmp_path: Path) -> None:
    source = folder(tmp_path, "1.png")
    two = Source(source, "--data", (INPUT, INPUT), PLAIN, str(tmp_path / "spool"))
    (problem,) = refused(lambda: sources.find(two))
    assert problem.what == "a folder of images feeds one input; the model has 2"


def test_without_pillow_the_command_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "PIL":
            raise ModuleNotFoundError("No module named 'PIL'", name="PIL")
        return real(name, *rest, **more)

    source = folder(tmp_path, "1.png")
    monkeypatch.setattr(builtins, "__import__", missing)
    (problem,) = refused(lambda: spooled(source, tmp_path / "spool"))
    assert problem.fix == "pip install 'enginepick[images]'"


def test_a_folder_of_images_is_checked_like_any_data(tmp_path: Path) -> None:
    onnx.save(conv_model(), tmp_path / "m.onnx")
    data = folder(tmp_path / "data", "a/1.png", "a/2.png", "b/3.png")
    other = folder(tmp_path / "other", "7.png", "8.png", "9.png", "91.png")
    declared = wire.decode(Preprocessing, wire.encode(replace(PLAIN, resize=(16, 16))))
    more = {"spool_folder": str(tmp_path / "spool"), "declared": declared}
    checked = check(str(tmp_path / "m.onnx"), data, calibration_source=other, **more)
    assert checked.metric == "top1"
    assert checked.data is not None
    assert checked.data.labelled
    assert checked.excluded == (0, 1, 2)  # the same pixels under other names
    more["declared"] = replace(declared, resize=(16, 8))
    (problem, *_) = refused(lambda: check(str(tmp_path / "m.onnx"), data, **more))
    assert "has the size 8" in problem.what
    (problem,) = refused(lambda: check(str(tmp_path / "none.onnx"), data, **more))
    assert problem.where == str(tmp_path / "none.onnx")


def test_a_run_on_images_can_be_resumed(tmp_path: Path) -> None:
    onnx.save(conv_model(), tmp_path / "m.onnx")
    names = (f"{'ab'[number % 2]}/{number}.png" for number in range(12))
    table = {"scale": 255, "mean": 0.5, "std": 0.5, "resize": [16, 16]}
    wishes = {"data": folder(tmp_path / "data", *names), "images": table, "measure": SMALL}
    more = {"model": str(tmp_path / "m.onnx"), "out": str(tmp_path / "r"), "backends": ["null"]}
    config = load_sweep(None, {**wishes, **more, "precisions": ["fp32"]})
    results = sweep(config, LAB, Cache(tmp_path / "cache"))
    assert (results.run.data.source, results.run.data.samples) == (wishes["data"], 12)
    assert all(record.ok for record in results.launches)
    cut = results.path.read_text().splitlines(keepends=True)[:-1]  # without its end
    results.path.write_text("".join(cut))
    again = resume(str(results.path), more["out"], LAB, Cache(tmp_path / "cache"))
    assert again.run.data.sha256 == results.run.data.sha256
    assert again.end is not None
    assert again.end.why == "done"


def test_the_tables_that_are_shown_are_read() -> None:
    page = (Path(__file__).parent.parent / "docs" / "data.md").read_text()
    shown, *_ = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    given = {"model": "m.onnx", "data": "images"}
    read = [SweepConfig.from_dict({**given, **tomllib.loads(t)}) for t in (shown, images.TABLE)]
    assert read[0] == read[1]
    assert read[0].images is not None
    assert read[0].images.preprocessing().crop == (224, 224)
