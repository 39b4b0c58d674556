"""Make real model x data cases to benchmark on: each a folder with a `sweep.toml`.

digits, digits-throughput: the demo's model and labels. filetypes, ocr: as in `examples/`.
direction: rapidocr's classifier of upright and upside-down lines of text, with exact labels, since
the lines are drawn here. detection: rapidocr's text detector on drawn pages, without labels.
Needs the extra `examples` (magika, rapidocr, Pillow). Nothing that it makes may be committed.
Run: .venv/bin/python benchmarks/cases.py FOLDER [CASE ...]
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "harness" / "demo"
LINE_WIDTH = 192
"""Of the direction classifier's input, which is as high as the recogniser's."""
PAGE = (320, 480)
SAMPLES = {"direction": 800, "detection": 80, "ocr": 400}


def example(name: str) -> ModuleType:
    """The module that makes an example's data."""
    path = ROOT / "examples" / name / "make_data.py"
    spec = importlib.util.spec_from_file_location(f"make_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write_config(folder: Path, model: str, data: str, *more: str) -> None:
    """A case's `sweep.toml`; ``more`` are its other lines."""
    lines = [f'model = "{model}"', f'data = "{data}"', 'out = "results"', *more]
    (folder / "sweep.toml").write_text("\n".join(lines) + "\n")


def make_digits(folder: Path, *more: str) -> None:
    """The demo's files."""
    for name in ("digits.onnx", "digits.npz"):
        shutil.copyfile(DEMO / name, folder / name)
    write_config(folder, "digits.onnx", "digits.npz", *more)


def make_digits_throughput(folder: Path) -> None:
    """The demo's files, judged by throughput."""
    make_digits(folder, 'objective = "throughput"')


def make_filetypes(folder: Path) -> None:
    """As examples/filetypes."""
    example("filetypes").make(folder, 40, 0)
    write_config(folder, "magika.onnx", "filetypes.npz", 'metric = "top1"')


def make_ocr(folder: Path) -> None:
    """As examples/ocr."""
    example("ocr").make(folder, SAMPLES["ocr"], 0)
    limits = ("[measure]", "calibration_samples = 32", "validation_samples = 300")
    metric = 'metric = "cer(alphabet=characters.txt)"'
    write_config(folder, "PP-OCRv6_rec_small.onnx", "ocr.npz", metric, *limits)


def make_direction(folder: Path) -> None:
    """Lines of text, every second one upside down."""
    ocr = example("ocr")
    fonts, rng = _fonts(ocr), random.Random(0)
    images, labels = [], []
    for number in range(SAMPLES["direction"]):
        line = ocr.draw_line(ocr.random_text(rng)[:12], fonts, rng)
        if line.shape[1] > LINE_WIDTH:
            line = line[:, :LINE_WIDTH]
        turned = number % 2
        line = np.rot90(line, 2) if turned else line
        images.append(ocr.prepare(line)[:, :, :LINE_WIDTH])
        labels.append(turned)
    model = _model(ocr, "ch_ppocr_mobile_v2.0_cls_mobile.onnx", folder)
    np.savez_compressed(folder / "direction.npz", x=np.stack(images), labels=np.array(labels))
    write_config(folder, model, "direction.npz", 'metric = "top1"')


def make_detection(folder: Path) -> None:
    """Pages of a few lines of text."""
    ocr = example("ocr")
    fonts, rng = _fonts(ocr), random.Random(0)
    pages = [_page(ocr, fonts, rng) for _ in range(SAMPLES["detection"])]
    model = _model(ocr, "PP-OCRv6_det_small.onnx", folder)
    np.savez_compressed(folder / "detection.npz", x=np.stack(pages))
    samples = ("[measure]", "calibration_samples = 16")
    write_config(folder, model, "detection.npz", 'metric = "cosine"', *samples)


def _page(ocr: ModuleType, fonts: list[Path], rng: random.Random) -> np.ndarray[Any, Any]:
    height, width = PAGE
    page = np.full(PAGE, rng.randint(200, 255), np.uint8)
    for top in range(8, height - ocr.HEIGHT, ocr.HEIGHT + rng.randint(8, 30)):
        line = ocr.draw_line(ocr.random_text(rng), fonts, rng)
        left = rng.randint(0, width - line.shape[1])
        page[top : top + line.shape[0], left : left + line.shape[1]] = line
    scaled = np.repeat(page[np.newaxis].astype(np.float32), 3, axis=0) / 255
    return (scaled - 0.5) / 0.5


def _fonts(ocr: ModuleType) -> list[Path]:
    folder = ocr.package_folder("matplotlib", "pip install matplotlib") / "mpl-data/fonts/ttf"
    return [folder / name for name in ocr.FONTS]


def _model(ocr: ModuleType, name: str, folder: Path) -> str:
    package = ocr.package_folder("rapidocr", "pip install --no-deps rapidocr==3.10.0")
    shutil.copyfile(package / "models" / name, folder / name)
    return name


CASES: dict[str, Callable[[Path], None]] = {
    "digits": make_digits,
    "digits-throughput": make_digits_throughput,
    "filetypes": make_filetypes,
    "ocr": make_ocr,
    "direction": make_direction,
    "detection": make_detection,
}


def main() -> None:
    """Make the cases that are named, or all."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    args = parser.parse_args()
    unknown = set(args.cases) - set(CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    for name in args.cases or CASES:
        folder = args.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        CASES[name](folder)
        print(f"enginepick sweep --config {folder / 'sweep.toml'}")


if __name__ == "__main__":
    main()
