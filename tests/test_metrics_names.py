from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import metrics
from harness.config import load_sweep
from harness.errors import InputError, Problem
from harness.metrics.names import OPTIONS, anchored, parse, short


def refused(name: str) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        parse(name)
    return caught.value.problems


def test_a_name_is_understood_with_and_without_options_and_output() -> None:
    assert (parse("top1").base, parse("top1").output) == ("top1", None)
    assert parse("top1@serving:0").output == "serving:0"
    assert parse("f1").options == {"average": "macro", "positive": 1, "threshold": None}
    spec = parse("f1( average = micro , threshold=-0.5 )@a@(b)")
    assert spec.options == {"average": "micro", "positive": 1, "threshold": -0.5}
    assert (spec.given, spec.output) == (("average", "threshold"), "a@(b)")
    assert parse("f1()").options == parse("f1").options


def test_a_path_may_hold_what_separates_options() -> None:
    for path in ("a b/c.txt", "x (1)/c.txt", "a@b.txt"):
        assert parse(f"cer(alphabet={path})").options["alphabet"] == path
    assert parse('cer(alphabet="a,b=c.txt",blank=3)@y').options["alphabet"] == "a,b=c.txt"


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("top2", 'no metric "top2"; there are: top1, top5,', 'did you mean "top'),
        ("f1(avg=micro)", 'f1 has no option "avg"; its options are: average,', 'mean "average"'),
        ("top1(k=3)", 'top1 has no option "k"; it has none', ""),
        ("f1(average=makro)", "expected one of macro, micro, binary", 'did you mean "macro"?'),
        ("f1(threshold=high)", 'threshold is "high"; expected a number', ""),
        ("iou(classes=1)", 'classes is "1"; expected a whole number from 2', ""),
        ("iou(classes=two)", 'classes is "two"; expected a whole number from 2', ""),
        ("f1(average=micro,average=macro)", "average is given twice", "give it once"),
        ("f1(micro)", '"micro" is not of the form option=value', '"double quotes"'),
        ("f1(positive=2)", "positive means nothing to average=macro", "average=binary,positive=2"),
        ("f1(average=binary,positive=2,threshold=0)", "positive means nothing beside", "leave"),
        ("cer", "cer needs an alphabet", "cer(alphabet=characters.txt)"),
        ("wer(alphabet=)", 'alphabet is ""; expected the path of a file', ""),
        ("cer(alphabet=a,decoder=ids,blank=1)", "blank means nothing to the decoder ids", "ctc"),
        ("cer(alphabet=a,end=1)", "end means nothing to the decoder ctc", "decoder=argmax"),
        ("map@boxes", 'map scores three outputs, not "boxes"', "map(boxes=..."),
        ("top1@", '"top1@" names no output after the @', "top1@output_name"),
        ("f1(average=micro", 'no metric "f1(average=micro"', ""),
    ],
)
def test_a_name_that_is_not_understood_says_what_is_expected(
    name: str, what: str, fix: str
) -> None:
    (problem,) = refused(name)
    assert problem.where == "--metric"
    assert what in problem.what
    assert fix in (problem.fix or "")


def test_all_faults_of_a_name_come_at_once() -> None:
    assert len(refused("f1(averge=micro,threshold=x,positive=-1)")) == 3


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_metric_that_is_listed_can_be_had(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\na\n")
    metric = metrics.get(f"{name}(alphabet={tmp_path}/a.txt)" if name in ("cer", "wer") else name)
    assert metric.base == name
    assert metric.needs_labels == (name not in ("agreement", "cosine", "sqnr"))
    assert metric.higher_is_better == (name not in ("mae", "mse", "rmse", "cer", "wer"))
    assert metric.whole == (name in ("rmse", "f1", "auc", "spearman", "iou", "map"))


def test_paths_of_a_file_are_relative_to_it() -> None:
    assert anchored("cer(alphabet=data/a.txt,blank=0)@y", "/d") == (
        "cer(alphabet=/d/data/a.txt,blank=0)@y"
    )
    assert anchored("wer(decoder=ids, alphabet=../a.txt)", "/d/e") == (
        "wer(decoder=ids,alphabet=/d/a.txt)"
    )
    assert anchored("cer(alphabet=/a.txt)", "/d") == "cer(alphabet=/a.txt)"
    assert anchored("cer(alphabet=a.txt)", "/x, y") == 'cer(alphabet="/x, y/a.txt")'
    for name in ("top1", "f1(average=micro)@y", "module:function", "no(alphabet=a)", "cer("):
        assert anchored(name, "/d") == name


def test_people_read_a_name_without_its_files() -> None:
    assert short("cer(decoder=ids,alphabet=/a/b.txt,end=2)@y") == "cer(decoder=ids,end=2)@y"
    assert short('cer(alphabet="/a, b.txt")@y') == "cer@y"
    for name in ("top1@y", "f1(average=micro)", "module:function", "no(alphabet=a)", "cer(a"):
        assert short(name) == name


@given(st.text(max_size=30))
def test_no_name_makes_trouble(name: str) -> None:
    for text in (name, f"f1({name})", f"cer(alphabet={name})", f"top1@{name}"):
        assert isinstance(anchored(text, "/d"), str)
        assert isinstance(short(text), str)
        try:
            assert parse(text).base in OPTIONS
        except InputError:
            continue


@given(st.text(alphabet=st.characters(exclude_characters='",'), min_size=1, max_size=20))
def test_what_is_anchored_is_still_understood(path: str) -> None:
    name = f"cer(alphabet={path})"
    try:
        before = parse(name)
    except InputError:
        return
    after = parse(anchored(name, "/d"))
    assert after.options["alphabet"].startswith("/")
    assert (after.base, after.output) == (before.base, before.output)


def test_a_sweep_file_names_an_alphabet_beside_itself(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    (tmp_path / "d.npz").touch()
    file = tmp_path / "sweep.toml"
    file.write_text('model = "m.onnx"\ndata = "d.npz"\nmetric = "cer(alphabet=a.txt)"\n')
    assert load_sweep(file).metric == f"cer(alphabet={tmp_path}/a.txt)"
    given = load_sweep(file, {"metric": "cer(alphabet=a.txt)"})
    assert given.metric == "cer(alphabet=a.txt)"  # the command line's are the working directory's


def test_the_documentation_has_every_metric_and_option() -> None:
    page = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
    for base, options in OPTIONS.items():
        assert re.search(rf"^\| .*`{base}\b", page, re.MULTILINE), base
        for option in options:
            assert re.search(rf"^\| `.*\b{option}\b", page, re.MULTILINE), f"{base}: {option}"
