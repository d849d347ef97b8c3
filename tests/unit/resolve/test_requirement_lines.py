"""The user's lines: what pip's requirements they are."""

import pytest

from mlenv.core.spec import Origin, Requirement
from mlenv.resolve.failures import InvalidRequirement
from mlenv.resolve.requirement_lines import parse_line, parse_lines

AT = Origin("requirements.txt", 3)


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("NumPy", "numpy", "NumPy"),
        ("apache_beam~=2.69.0", "apache-beam", "apache_beam~=2.69.0"),
        ("azureml-dataset-runtime[pandas,fuse]", "azureml-dataset-runtime", "azureml-dataset-runtime[fuse,pandas]"),
        ("torch >= 1.9.*", "torch", "torch>=1.9"),
        ("torch==1.9.*", "torch", "torch==1.9.*"),
        ("a; sys_platform == 'linux'", "a", 'a; sys_platform == "linux"'),
        ("http://h/My_Pkg-1.0-py3-none-any.whl", "my-pkg", "my-pkg @ http://h/My_Pkg-1.0-py3-none-any.whl"),
        ("http://h/my-pkg-1.0.tar.gz", "my-pkg", "my-pkg @ http://h/my-pkg-1.0.tar.gz"),
    ],
)
def test_reads_a_line(text: str, name: str, expected: str) -> None:
    line = parse_line(Requirement(text, AT))
    assert (line.name, line.text) == (name, expected)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("-e .", "put the package on an index"),
        ("./dist/a-1-py3-none-any.whl", "put the package on an index"),
        ("a-1-py3-none-any.whl", "put the package on an index"),
        ("a @ file:///tmp/a.whl", "put the package on an index"),
        ("git+https://example.org/a.git@main", "name a release of it"),
        ("a @ git+ssh://example.org/a.git", "name a release of it"),
        ("https://example.org/archive/main.zip", "write `name @ https://example.org/archive/main.zip`"),
        ("numpy=1.21", "write `numpy==1.21`"),
    ],
)
def test_refuses_what_cannot_be_locked(text: str, hint: str) -> None:
    with pytest.raises(InvalidRequirement) as caught:
        parse_line(Requirement(text, AT))
    assert str(caught.value).startswith(f"requirements.txt:3: {text}: ")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("text", ["", "foo>=", "foo==", "[x]", "a b c", "--index-url x"])
def test_refuses_what_is_no_requirement(text: str) -> None:
    with pytest.raises(InvalidRequirement):
        parse_line(Requirement(text, AT))


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ExceptionGroup, match="2 lines"):
        parse_lines([Requirement("a=="), Requirement("fine"), Requirement("b==")])


def test_a_users_line_replaces_a_seed() -> None:
    lines = parse_lines([Requirement("Pip==23")], [Requirement("pip"), Requirement("wheel")])
    assert [(each.text, each.seed) for each in lines] == [("Pip==23", False), ("wheel", True)]


def test_edits_keep_the_rest_of_a_line() -> None:
    line = parse_line(Requirement("a[x]>=1,<2; python_version < '4'"))
    assert line.relaxed().text == 'a[x] ; python_version < "4"'
    assert line.with_specifier("==3").text == 'a[x]==3 ; python_version < "4"'
    assert line.renamed("b").text == 'b[x]<2,>=1; python_version < "4"'
