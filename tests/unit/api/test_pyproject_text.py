"""`pyproject.toml` as a definition."""

import pytest

from mlenv.api.dependencies import Dependencies
from mlenv.api.problems import FileProblem, Findings, InvalidSyntax
from mlenv.api.pyproject import parse_pyproject
from mlenv.core.spec import Origin

WHOLE = """\
[project]
name = "My.Project"
requires-python = ">=3.10,<3.13"
dependencies = [
    "numpy>=2",
    'pandas ; python_version < "3.12"',
]

[project.optional-dependencies]
gpu = ["torch"]
plot = ["matplotlib>=3"]
all = ["my-project[gpu,plot]", "extra"]

[dependency-groups]
test = ["pytest>=8"]
Dev_Tools = [{ include-group = "test" }, "ruff"]
ring = [{ include-group = "ring" }]
odd = [{ include = "x" }, 5]
"""


def read(text: str, *, extras: tuple[str, ...] = (), groups: tuple[str, ...] = ()) -> tuple[Dependencies, Findings]:
    findings = Findings()
    return parse_pyproject(text, "pyproject.toml", findings=findings, extras=extras, groups=groups), findings


def texts(found: Dependencies) -> list[str]:
    return [each.text for each in found.requirements or ()]


def test_dependencies_with_their_lines() -> None:
    found, findings = read(WHOLE)
    assert not findings.problems
    assert [(each.text, each.origin) for each in found.requirements or ()] == [
        ("numpy>=2", Origin("pyproject.toml", 5)),
        ('pandas ; python_version < "3.12"', Origin("pyproject.toml", 6)),
    ]
    assert found.python == ">=3.10,<3.13"


def test_chosen_extras_and_those_they_name() -> None:
    assert texts(read(WHOLE, extras=("gpu",))[0])[2:] == ["torch"]
    assert texts(read(WHOLE, extras=("ALL",))[0])[2:] == ["torch", "matplotlib>=3", "extra"]


def test_groups_include_groups() -> None:
    found, findings = read(WHOLE, groups=("dev-tools",))
    assert not findings.problems
    assert texts(found)[2:] == ["pytest>=8", "ruff"]


def _line(key: str) -> str:
    return next(each for each in WHOLE.splitlines() if each.startswith(key))


def test_groups_need_no_project() -> None:
    assert texts(read('[dependency-groups]\na = ["x"]\n', groups=("a",))[0]) == ["x"]


@pytest.mark.parametrize(
    ("extras", "groups", "message", "hint"),
    [
        (("gpus",), (), "project.optional-dependencies.gpus: there is no extra 'gpus'", "did you mean `gpu`?"),
        (("zzz",), (), "there is no extra 'zzz'", "there are: all, gpu, plot"),
        ((), ("tests",), "dependency-groups.tests: there is no group 'tests'", "did you mean `test`?"),
        ((), ("ring",), "pyproject.toml:17:1: dependency-groups.ring: the group includes itself: ring → ring", None),
    ],
)
def test_what_is_asked_for_and_not_there(
    extras: tuple[str, ...], groups: tuple[str, ...], message: str, hint: str | None
) -> None:
    _, findings = read(WHOLE, extras=extras, groups=groups)
    assert len(findings.problems) == 1
    assert message in str(findings.problems[0])
    assert findings.problems[0].hint == hint


def test_groups_of_other_shapes_are_refused() -> None:
    _, findings = read(WHOLE, groups=("odd",))
    assert [str(each).split(": ")[1] for each in findings.problems] == [
        "dependency-groups.odd[0]",
        "dependency-groups.odd[1]",
    ]
    line = WHOLE.splitlines().index(_line("odd")) + 1
    assert all(str(each).startswith(f"pyproject.toml:{line}:1: ") for each in findings.problems)


def test_what_a_group_includes_in_vain_is_placed() -> None:
    _, findings = read('[dependency-groups]\na = [\n  { include-group = "gone" },\n]\n', groups=("a",))
    assert str(findings.problems[0]) == "pyproject.toml:3:22: dependency-groups.gone: there is no group 'gone'"


def test_dynamic_dependencies_are_refused() -> None:
    _, findings = read('[project]\nname = "x"\ndynamic = ["version", "dependencies"]\n')
    assert str(findings.problems[0]).startswith("pyproject.toml:3:1: project.dynamic: `dependencies` is dynamic")


def test_a_bad_requirement_is_placed() -> None:
    _, findings = read('[project]\nname = "x"\ndependencies = [\n  "numpy",\n  "pandas=2",\n]\n')
    assert str(findings.problems[0]).startswith("pyproject.toml:5:10: not a requirement: 'pandas=2'")


def test_uv_settings_are_ignored_aloud() -> None:
    uv = '[tool.uv]\nconstraint-dependencies = ["b<2"]\n[tool.uv.sources]\na = { path = "../a" }\n[[tool.uv.index]]\nurl = "x"\n'
    _, findings = read(f'[project]\nname = "x"\n{uv}')
    indexes = "name indexes under `indexes` in an environment YAML"
    assert findings.warnings == (
        f"pyproject.toml:5:1: [tool.uv] sources is ignored; write `NAME @ URL` into the dependencies, and {indexes}",
        f"pyproject.toml:7:1: [tool.uv] index is ignored; {indexes}",
        "pyproject.toml:4:1: [tool.uv] constraint-dependencies is ignored; write the bounds into the dependencies",
    )


def test_other_tables_are_no_project() -> None:
    with pytest.raises(FileProblem, match=r"only \[tool\.poetry\]") as caught:
        read('[tool.poetry]\nname = "x"\n')
    assert "poetry export" in (caught.value.hint or "")
    with pytest.raises(InvalidSyntax, match="not TOML") as syntax:
        read("[project]\nname = \n")
    assert str(syntax.value.place) == "pyproject.toml:2:8"
