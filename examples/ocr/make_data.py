"""Make the text-recognition example: rapidocr's recogniser, and rendered text as its data.

The model comes out of the installed ``rapidocr`` package. A sample is a line of text, drawn with
one of the DejaVu fonts that come with matplotlib, and prepared as rapidocr prepares a line for
this model. The label is the text itself.

    python examples/ocr/make_data.py [--out FOLDER] [--samples 400] [--seed 0]

The same arguments and the same versions of Pillow and numpy give the same files.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).resolve().parent
MODEL = Path("models", "PP-OCRv6_rec_small.onnx")
HEIGHT, WIDTH = 48, 320
"""Of every image in pixels: the model's height, and the width that rapidocr starts from."""
MARGIN = 4

LONGEST = 26
"""Characters of a text at most: the model reads 40 columns of this width, a letter takes 1.5."""

FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
)
SIZES = (12, 38)
"""Smallest and largest size of the letters, in pixels."""

WORDS = """\
about account address after amount answer available balance before begin between board bridge
building business button camera cancel capital careful center certain change chapter circle
client closed college color column common company complete contact continue control copper
corner country course credit customer daily danger degree delivery department design detail
device discount distance division double early east effect eight electric empty engine enough
entrance equal error evening event example exit export factor family figure final finger floor
follow foreign forest forward fresh front garden general glass government great green ground
group half happy harbor hospital hotel hour house hundred ignore import inch include increase
index input invoice island item journey judge just keep kitchen language large later leave
length letter level library light limit list local machine manual market matter maximum measure
medium member message meter middle minimum minute model modern money monitor month morning
mountain museum music narrow nature network never night normal north notice number object office
often open orange order original output owner package page paper parking passenger payment people
period person phone picture plan plastic platform please police postal power present pressure
price private process product project public purple quality quantity quarter question quick
quiet railway rapid rate ready receipt record reference region remain remove report request
reserve result return right river road round safety sale sample school science season second
section select serial service seven shape short signal silver simple single size small south
speed square staff standard start state station steel stock stop store storm street strong
subject sugar summer supply surface switch system table tax telephone temperature ten terminal
test thank theatre third thousand ticket time title today total tower town track traffic train
transfer travel tree triple tunnel twelve type under unit until upper use valid value vehicle
version village visit voltage volume wait wall warning water weather week weight west wheel
white width window winter wire without woman wood work world yellow yesterday young zero zone
"""

CODE_CHARACTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Without letters and digits that look the same: a label that can't be read is not a label."""


def package_folder(name: str, install: str) -> Path:
    """Where a package is installed; it is not imported, which would load all that it needs."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed\n    -> {install}")
    return Path(next(iter(spec.submodule_search_locations)))


def _words(rng: random.Random) -> str:
    text = " ".join(rng.sample(WORDS.split(), rng.randint(1, 3)))
    return rng.choice((str.title, str.upper, str.lower))(text)


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.sample(WORDS.split(), 3)).capitalize() + rng.choice(".!?")


def _number(rng: random.Random) -> str:
    return "".join(rng.choices("0123456789", k=rng.randint(3, 12)))


def _amount(rng: random.Random) -> str:
    return f"{rng.choice('$+-')}{rng.randint(1, 99999):,}.{rng.randint(0, 99):02}"


def _date(rng: random.Random) -> str:
    day = f"{rng.randint(1970, 2039)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    return f"{day} {rng.randint(0, 23):02}:{rng.randint(0, 59):02}"


def _code(rng: random.Random) -> str:
    return "-".join("".join(rng.choices(CODE_CHARACTERS, k=4)) for _ in range(rng.randint(1, 3)))


def random_text(rng: random.Random) -> str:
    """Words, a sentence, a number, an amount, a date or a code: at most LONGEST characters."""
    kinds = (_words, _words, _sentence, _number, _amount, _date, _code)
    while True:
        text = rng.choice(kinds)(rng)
        if len(text) <= LONGEST:
            return text


def draw_line(text: str, fonts: list[Path], rng: random.Random) -> np.ndarray[Any, Any]:
    """The text on an image of its own width, uint8 [HEIGHT, at most WIDTH].

    Size, font, contrast and noise are random; text that would be too wide is set smaller.
    """
    path, size = rng.choice(fonts), rng.randint(*SIZES)
    while True:
        # Not the system's layout engine, which other machines may not have.
        font = ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
        left, top, right, bottom = font.getbbox(text)
        width = int(right - left) + 2 * MARGIN
        if width <= WIDTH:
            break
        size -= 1
    paper, ink = rng.randint(170, 255), rng.randint(0, 80)
    if rng.random() < 0.2:
        paper, ink = ink, paper
    image = Image.new("L", (width, HEIGHT), paper)
    place = (MARGIN - left, (HEIGHT - (top + bottom)) / 2 + rng.randint(-2, 2))
    ImageDraw.Draw(image).text(place, text, fill=ink, font=font)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(
        0, rng.choice((0, 4, 8, 14)), (HEIGHT, width)
    )
    return np.clip(np.rint(np.asarray(image) + noise), 0, 255).astype(np.uint8)


def prepare(line: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As rapidocr's ``TextRecognizer.resize_norm_img``: float32 [3, HEIGHT, WIDTH].

    The line has the model's height already, so that nothing is left to resize.
    """
    image = np.repeat(line[:, :, np.newaxis], 3, axis=2).astype("float32")
    image = image.transpose((2, 0, 1)) / 255
    image -= 0.5
    image /= 0.5
    padded = np.zeros((3, HEIGHT, WIDTH), dtype=np.float32)
    padded[:, :, : line.shape[1]] = image
    return padded


def read_characters(model: Path) -> list[str]:
    """What the model's classes stand for; class 0 is the blank, as rapidocr has it."""
    import onnx

    loaded = onnx.load(str(model), load_external_data=False)
    found = [entry.value for entry in loaded.metadata_props if entry.key == "character"]
    if not found:
        raise SystemExit(f"{model} names no characters; this script knows rapidocr 3.10.0's model")
    return ["", *found[0].splitlines(), " "]


def make(out: Path, samples: int, seed: int) -> None:
    """Write the model, ``ocr.npz`` and ``characters.txt`` (one class a line)."""
    model = package_folder("rapidocr", "pip install --no-deps rapidocr==3.10.0") / MODEL
    if not model.is_file():
        raise SystemExit(f"no {model}\n    -> pip install --no-deps rapidocr==3.10.0")
    folder = package_folder("matplotlib", "pip install matplotlib") / "mpl-data/fonts/ttf"
    fonts = [folder / name for name in FONTS]
    rng = random.Random(seed)
    texts = [random_text(rng) for _ in range(samples)]
    images = np.stack([prepare(draw_line(text, fonts, rng)) for text in texts])
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, out / model.name)
    np.savez_compressed(out / "ocr.npz", x=images, labels=np.array(texts))
    lines = [f"{character}\n" for character in read_characters(model)]
    (out / "characters.txt").write_text("".join(lines), encoding="utf-8")
    print(f"{out}: {samples} lines of text")


def main() -> int:
    """Parse the command line."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "data", help="default: data, here")
    parser.add_argument("--samples", type=int, default=400, help="lines of text")
    parser.add_argument("--seed", type=int, default=0, help="of texts, fonts and noise")
    args = parser.parse_args()
    if args.samples < 1:
        parser.error("--samples: expected 1 or more")
    make(args.out, args.samples, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
