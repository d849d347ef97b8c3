"""Conda environment files."""

import json

import pytest

from mlenv.api.conda import CondaDefinition, parse_conda
from mlenv.api.problems import CredentialInUrl, FileProblem, Findings, InvalidDefinition
from mlenv.api.python_version import InvalidPython, both, parse_python, python_from_conda
from mlenv.core.spec import Index, Origin


def read(text: str) -> tuple[CondaDefinition, Findings]:
    findings = Findings()
    return parse_conda(text, "conda.yml", findings=findings), findings


WHOLE = """\
name: train
channels:
  - conda-forge
  - defaults
dependencies:
  - python=3.10
  - pip<=23.2.1
  - setuptools
  - conda-forge::py-xgboost<=1.3.3
  - numpy >=1.24  # fast
  - pip:
      - scikit-learn==1.5.0
      - --extra-index-url https://example.org/simple
      - mlflow>=2 # tracking
variables:
  OMP_NUM_THREADS: 4
prefix: /opt/conda
"""


def test_a_whole_file() -> None:
    found, findings = read(WHOLE)
    conda = found.conda
    assert not findings.problems
    assert found.name == "train"
    assert conda.text == WHOLE
    assert conda.python == "3.10"
    assert conda.channels == ("conda-forge", "defaults")
    assert [each.text for each in conda.packages] == [
        "pip<=23.2.1", "setuptools", "conda-forge::py-xgboost<=1.3.3", "numpy >=1.24",
    ]  # fmt: skip
    assert [str(each) for each in conda.needs_conda] == [
        "conda.yml:9: conda-forge::py-xgboost<=1.3.3",
        "conda.yml:10: numpy >=1.24",
    ]
    assert [(each.text, each.origin) for each in conda.pip] == [
        ("scikit-learn==1.5.0", Origin("conda.yml", 12)),
        ("mlflow>=2", Origin("conda.yml", 14)),
    ]
    assert found.pip.sources.extra == (Index("https://example.org/simple", "example-org"),)
    assert json.loads(conda.document)["variables"] == {"OMP_NUM_THREADS": "4"}


def test_comments_and_key_order_do_not_count() -> None:
    first, _ = read("name: a\ndependencies: [python=3.10, pip]\n")
    second, _ = read("# hello\ndependencies:\n- python=3.10\n- pip   # yes\nname: a\n")
    assert first.conda.document == second.conda.document
    assert first.conda == second.conda


@pytest.mark.parametrize(
    ("spec", "python"),
    [
        ("python", None),
        ("python=3.10", "3.10"),
        ("python 3.10", "3.10"),
        ("python=3.10.*", "3.10"),
        ("python==3.10", "3.10"),
        ("python ==3.10", "3.10"),
        ("python=3.7.9", "3.7.9"),
        ("python==3.10.4", "3.10.4"),
        ("python=3.10.13=h955ad1f_0", "3.10.13"),
        ("python 3.9.* *_cpython", "3.9"),
        ("python>=3.8,<3.11", ">=3.8,<3.11"),
        ("python >= 3.8, < 3.11", ">=3.8,<3.11"),
        ("python[version='>=3.8,<3.11']", ">=3.8,<3.11"),
        ("conda-forge::python=3.9", "3.9"),
        ("python=3", "==3.*"),
        ("python!=3.9.*,>=3.8", "!=3.9.*,>=3.8"),
    ],
)
def test_pins_of_python(spec: str, python: str | None) -> None:
    found, findings = read(f'dependencies: ["{spec}", pip]\n')
    assert not findings.problems
    assert found.conda.python == python
    assert found.conda.needs_conda == ()


def test_python_app_is_not_python() -> None:
    found, _ = read("dependencies: [python=3.8, python.app]\n")
    assert found.conda.python == "3.8"
    assert [each.text for each in found.conda.needs_conda] == ["python.app"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "dependencies: {a: b}\n",
            "conda.yml:1:15: dependencies: not what a conda file has here; found a mapping, expected",
        ),
        (
            "dependencies:\n- 5\n",
            "conda.yml:2:3: dependencies[0]: not what a conda file has here; found 5 (an integer)",
        ),
        ("dependencies:\n- npm: [x]\n", "conda.yml:2:3: dependencies[0].npm: conda knows no installer 'npm'"),
        ("dependencies:\n- pip: numpy\n", "conda.yml:2:8: dependencies[0].pip: not what a conda file has here"),
        ("dependencies:\n- pip: [{a: b}]\n", "conda.yml:2:9: dependencies[0].pip[0]: not what a conda file has here"),
        ("dependencies:\n- python=3.8|3.9\n", "conda.yml:2:3: dependencies[0]: a Python that can't be understood"),
        (
            "dependencies:\n- foo=={{ version }}\n",
            "conda.yml:2:3: dependencies[0]: not a conda package: 'foo=={{ version }}'",
        ),
        (
            "dependencies:\n- pip:\n  - foo=={{v}}\n",
            "conda.yml:3:10: not a requirement: 'foo=={{v}}' looks like an unfilled",
        ),
        ("dependencies:\n- pip:\n  - -e .\n", "conda.yml:3:5: a local path can't be a requirement here: '.'"),
        ("channels: [5]\n", "conda.yml:1:12: channels[0]: not what a conda file has here"),
        ("variables: [5]\n", "conda.yml:1:12: variables: not what a conda file has here"),
    ],
)
def test_faults_are_placed(text: str, message: str) -> None:
    _, findings = read(text)
    assert len(findings.problems) == 1
    assert str(findings.problems[0]).startswith(message)


@pytest.mark.parametrize("text", ["", "- a\n", "5\n"])
def test_what_is_no_conda_file(text: str) -> None:
    with pytest.raises(FileProblem):
        read(text)


def test_credentials_are_refused_everywhere() -> None:
    _, findings = read(
        "channels: ['https://u:hunter2@example.org/c', 'https://example.org/t/hunter2/c']\n"
        "dependencies:\n- 'https://u:hunter2@example.org/c::x'\n- pip:\n  - -i https://u:hunter2@example.org/s\n"
    )
    assert len(findings.problems) == 4
    assert all(isinstance(each, CredentialInUrl) for each in findings.problems)
    assert "hunter2" not in "".join(map(str, findings.problems))


def test_what_conda_ignores_is_said() -> None:
    _, findings = read("platforms: [linux-64]\n")
    assert findings.warnings == (
        "conda.yml:1:1: conda ignores the section `platforms`, and so is it here",
        "conda.yml:1:1: the conda file has no `dependencies`, so nothing is installed",
    )


@pytest.mark.parametrize(
    ("text", "python"),
    [("3.11", "3.11"), ("3.11.4", "3.11.4"), ("3.11.*", "3.11"), ("==3.11.*", "3.11"), ("==3.11.4", "3.11.4"),
     (">=3.10, <3.12", ">=3.10,<3.12"), ("~=3.10", "~=3.10"), ("3", "==3.*")],
)  # fmt: skip
def test_python_is_a_version_or_a_range(text: str, python: str) -> None:
    assert parse_python(text) == python


@pytest.mark.parametrize("text", ["", "python3", "3.11 or 3.12", "latest", ">=", "3.11t", "=3.11"])
def test_other_words_for_python_are_refused(text: str) -> None:
    with pytest.raises(InvalidPython, match="not a Python version or range"):
        parse_python(text)


def test_two_pins_hold_both() -> None:
    assert both("3.10", ">=3.9") == "==3.10.*,>=3.9"
    assert both("3.10.4", "3.10") == "==3.10.4,==3.10.*"
    assert both(None, "3.10") == "3.10"
    assert python_from_conda("") is None


def test_problems_keep_their_facts() -> None:
    _, findings = read("dependencies:\n- 5\n")
    problem = findings.problems[0]
    assert isinstance(problem, InvalidDefinition)
    assert (problem.place.line, problem.place.column) == (2, 3)
    assert problem.path == "dependencies[0]"
    assert problem.found == "5 (an integer)"
    assert problem.expected is not None
