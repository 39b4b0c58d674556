"""Content-addressed, checked, evicted least recently used."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cache import MANIFEST, Cache, default_root, key_of


def put(cache, key, size=100, kind="engines"):
    workdir = cache.workdir()
    (workdir / "sub").mkdir()
    (workdir / "sub" / "a.bin").write_bytes(b"x" * size)
    return cache.put(kind, key, workdir, {"key": key})


def age(entry, seconds):
    os.utime(entry.folder / MANIFEST, (seconds, seconds))


@given(st.dictionaries(st.text(max_size=4), st.integers()))
def test_a_key_is_of_the_content_and_not_of_its_order(parts):
    assert key_of(parts) == key_of(dict(reversed(parts.items())))
    assert key_of(parts) != key_of({**parts, "one more": 0})


def test_what_was_put_is_found(tmp_path):
    cache = Cache(tmp_path)
    assert cache.get("engines", "k") is None
    entry = put(cache, "k")
    found = cache.get("engines", "k")
    assert found.folder == entry.folder
    assert (found.size_bytes, found.meta) == (100, {"key": "k"})
    assert (found.folder / "sub" / "a.bin").read_bytes() == b"x" * 100
    assert [each.folder.name for each in cache.entries()] == ["k"]


@pytest.mark.parametrize("damage", ["flip", "remove", "shorten", "manifest", "no manifest"])
def test_a_damaged_entry_is_removed(tmp_path, damage):
    cache = Cache(tmp_path)
    folder = put(cache, "k").folder
    file = folder / "sub" / "a.bin"
    if damage == "flip":
        file.write_bytes(b"y" + b"x" * 99)
    elif damage == "remove":
        file.unlink()
    elif damage == "shorten":
        file.write_bytes(b"x" * 99)
    elif damage == "manifest":
        (folder / MANIFEST).write_text("{")
    else:
        (folder / MANIFEST).unlink()
    assert cache.get("engines", "k") is None
    assert not folder.exists()
    put(cache, "k")
    assert cache.get("engines", "k") is not None


def test_the_least_recently_used_goes_first(tmp_path):
    makers = Cache(tmp_path)
    for place, key in enumerate(("old", "used", "new")):
        age(put(makers, key), 1000 + place)
    cache = Cache(tmp_path)
    cache.get("engines", "used")
    assert [each.folder.name for each in cache.evict(200)] == ["old"]
    assert {each.folder.name for each in cache.entries()} == {"used", "new"}
    # Later processes know of that use too: by age alone "used" would be next.
    assert [each.folder.name for each in Cache(tmp_path).evict(100)] == ["new"]


def test_what_is_in_use_stays(tmp_path):
    cache = Cache(tmp_path, max_bytes=150)
    put(cache, "one")
    put(cache, "two")
    assert len(cache.entries()) == 2  # both are of this process
    assert len(Cache(tmp_path).evict(150)) == 1


def test_a_second_maker_of_the_same_key_loses_quietly(tmp_path):
    first, second = Cache(tmp_path), Cache(tmp_path)
    put(first, "k", size=10)
    assert put(second, "k", size=10).size_bytes == 10
    assert not list(tmp_path.glob("making-*"))


def test_clearing_takes_leftovers_too(tmp_path):
    cache = Cache(tmp_path)
    put(cache, "k")
    cache.workdir()
    (tmp_path / "mine.txt").write_text("not the cache's")
    assert len(cache.clear()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_scratch_is_removed(tmp_path):
    with Cache(tmp_path).scratch() as folder:
        (folder / "x").write_text("")
    assert not folder.exists()


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("ENGINEPICK_CACHE", str(tmp_path / "own"))
    assert default_root() == tmp_path / "own"
    monkeypatch.delenv("ENGINEPICK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "enginepick"


@pytest.mark.parametrize(
    "manifest",
    [
        "[]",
        "{}",
        '{"files": [], "meta": {}}',
        '{"files": {"a": 1}, "meta": {}}',
        '{"files": {"sub/a.bin": {"size": 100}}, "meta": {}}',
        '{"files": {"sub/a.bin": {"size": "100", "sha256": ""}}, "meta": {}}',
        '{"files": {}}',
    ],
)
def test_a_manifest_that_is_not_ours_is_damage(tmp_path, manifest):
    cache = Cache(tmp_path)
    folder = put(cache, "k").folder
    (folder / MANIFEST).write_text(manifest)
    assert cache.get("engines", "k") is None
    assert not folder.exists()


def test_an_entry_that_cannot_be_kept_is_told(tmp_path):
    cache = Cache(tmp_path)
    (tmp_path / "engines" / "k").mkdir(parents=True)
    (tmp_path / "engines" / "k" / "stray").write_text("not an entry")
    with pytest.raises(FileNotFoundError):
        put(cache, "k")
    assert not list(tmp_path.glob("making-*"))


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=8), st.integers(0, 200))
def test_eviction_keeps_to_the_cap_and_to_the_order_of_use(tmp_path_factory, parts, cap):
    root = tmp_path_factory.mktemp("cache")
    maker, user = Cache(root), Cache(root)
    for place, (size, used) in enumerate(parts):
        entry = put(maker, str(place), size)
        if used:
            user.get("engines", str(place))
        age(entry, 1000 + place)
    gone = [int(each.folder.name) for each in user.evict(cap)]
    left = [int(each.folder.name) for each in user.entries()]
    assert sorted(gone + left) == list(range(len(parts)))
    assert gone == sorted(gone)
    idle = [place for place, (_, used) in enumerate(parts) if not used]
    assert gone == idle[: len(gone)]  # the oldest of those that nobody here uses
    kept = sum(parts[place][0] for place in left)
    assert kept <= cap or set(left).isdisjoint(idle)
    if gone:  # and not one more than it takes
        assert kept + parts[gone[-1]][0] > cap
