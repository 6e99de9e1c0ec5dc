"""The table of measured results: one arithmetic, written out again here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import beyond, image_size
from tutorial_lib import results
from tutorial_lib.results import load_results, results_table

RUNS = [
    {
        "group": "g",
        "name": "a",
        "seed": seed,
        "seconds": 10 * seed,
        "ddpm": {"agreement": 0.5 + seed / 10, "floors": seed},
    }
    for seed in (1, 2, 3)
] + [
    {"group": "g", "name": "b", "seed": 0, "seconds": 7, "iterated": {"agreement": 0.1, "floors": 99.96}},
    {"group": "other", "name": "c", "seed": 0, "seconds": 1, "ddpm": {"agreement": 0, "floors": 0}},
]


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    whole = bytearray(results.RESULTS["ablation"].read_bytes())
    place = whole.index(b'"agreement": 0.9') + 15
    whole[place] ^= 1  # 0.8 for 0.9
    (tmp_path / "ablation.json").write_bytes(whole)
    monkeypatch.setitem(results.RESULTS, "ablation", tmp_path / "ablation.json")
    load_results.cache_clear()
    with pytest.raises(ValueError, match=r"ablation\.json is damaged, or new: its sha256"):
        load_results()


def test_mean_and_range_over_seeds():
    assert results_table("g", results=RUNS).splitlines()[2:] == [
        "| a | 3 | 20 | DDPM | 70.0% (60.0% to 80.0%) | 2.0 (1.0 to 3.0) |",
        "| b | 1 | 7 | its own output, ten times | 10.0% | 100.0 |",
    ]


def test_some_names_of_several_groups():
    lines = results_table("g", "other", only=["c", "b"], results=RUNS).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| c", "| b"]
    with pytest.raises(ValueError, match="only must be one of 'a', 'b'; got 'c'"):
        results_table("g", only=["c"], results=RUNS)


def test_unknown_group():
    with pytest.raises(ValueError, match="group must be one of 'g', 'other'; got 'h'"):
        results_table("h", results=RUNS)


def test_readme_quotes_the_measured_tables():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for group in dict.fromkeys(result["group"] for result in load_results()):
        assert results_table(group) in readme, f"README.md must hold results_table({group!r})"


def test_readme_quotes_what_was_measured_beyond():
    readme, rows = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8"), load_results("beyond")
    for group, table in beyond.tables(rows).items():
        assert table in readme, f"README.md must hold the table of {group!r}: python -m tests.benchmarks.beyond tables"
    table = image_size.tables([row for row in rows if row["group"] == "image size"])
    assert all(line in readme for line in table.splitlines()), "README.md must hold the table of image sizes"


def test_the_rows_measured_beyond_are_whole():
    """Three seeds for each setting, no setting twice, and every score beside what it means."""
    rows = load_results("beyond")
    assert {row["group"] for row in rows} == {"guidance", "solvers", "pictures", "image size"}
    seeds: dict[str, list[int]] = {}
    for row in (row for row in rows if row["group"] in ("guidance", "solvers")):
        setting = str([row[name] for name in ("group", "solver", "steps", "scale", "interval", "n")])
        seeds.setdefault(setting, []).append(row["seed"])
    assert all(sorted(own) == [0, 1, 2] for own in seeds.values())
    for row in (row for row in rows if row["group"] != "image size"):
        assert 0 <= row["agreement"] <= 1 and row["diversity"] > 0
        assert row["floors"] == pytest.approx(row["frechet"] / row["floor"], rel=1e-3)
        looks = 2 if row["scale"] not in (0, 1) and row["interval"] is None else 1
        if row["interval"] is None:
            assert row["nfe"] == (2 * row["steps"] - 1 if row["solver"] == "heun" else looks * row["steps"])


def test_mean_and_range_of_a_table_of_solvers():
    rows = [{"agreement": value} for value in (0.5, 0.6, 0.7)]
    assert beyond.mean_and_range(rows, "agreement", "{:.1%}") == "60.0% (50.0% to 70.0%)"
    assert beyond.mean_and_range(rows[:1], "agreement", "{:.1%}") == "50.0%"
