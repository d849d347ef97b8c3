"""Requirements files, line by line."""

from pathlib import Path

import pytest

from mlenv.api.files import no_files
from mlenv.api.problems import CredentialInUrl, FileProblem, Findings, InvalidDefinition, InvalidLine, Place
from mlenv.api.requirement_line import check_requirement, is_plain
from mlenv.api.requirements import Requirements, parse_requirements
from mlenv.core.spec import Index, Origin, Requirement


def read(text: str, file: str = "requirements.txt") -> tuple[Requirements, Findings]:
    findings = Findings()
    return parse_requirements(text, file, findings=findings), findings


def fault(text: str) -> InvalidDefinition:
    _, findings = read(text)
    assert len(findings.problems) == 1
    problem = findings.problems[0]
    assert isinstance(problem, InvalidDefinition)
    return problem


def test_lines_comments_and_continuations() -> None:
    found, findings = read(
        "# top\n\nnumpy==2.1.0  # why\nfoo[bar] \\\n  >=1, \\\n  <2 ; python_version < '3.13'\n"
        "pkg @ https://example.org/p-1-py3-none-any.whl#sha256=00\n\n  last\n"
    )
    assert not findings.problems
    assert [(each.text, each.origin) for each in found.requirements] == [
        ("numpy==2.1.0", Origin("requirements.txt", 3)),
        ("foo[bar]   >=1,   <2 ; python_version < '3.13'", Origin("requirements.txt", 4)),
        ("pkg @ https://example.org/p-1-py3-none-any.whl#sha256=00", Origin("requirements.txt", 7)),
        ("last", Origin("requirements.txt", 9)),
    ]


def test_options_become_sources_and_policy() -> None:
    found, findings = read(
        "-i https://example.org/simple\n--extra-index-url=https://example.org/more\n-f https://example.org/wheels\n"
        "--pre\n--no-binary Fuse.Py,other\n--only-binary :all:\n--prefer-binary\n--trusted-host example.org\nx\n"
    )
    assert not findings.problems
    assert found.sources.default == Index("https://example.org/simple", "example-org")
    assert found.sources.extra == (
        Index("https://example.org/more", "example-org-2"),
        Index("https://example.org/wheels", "example-org-3", flat=True),
    )
    assert found.prereleases
    assert found.allow_source == ("fuse-py", "other")
    assert len(findings.warnings) == 1
    assert "--trusted-host is ignored" in findings.warnings[0]


def test_hashes_stay_with_their_requirement() -> None:
    one, two = f"sha256:{'a' * 64}", f"sha256:{'1B' * 32}"
    found, findings = read(f"numpy==2.1.0 \\\n    --hash={one} \\\n    --hash {two} --hash={one}\nsix\n")
    assert not findings.problems
    assert not findings.warnings
    assert [(each.text, each.hashes) for each in found.requirements] == [
        ("numpy==2.1.0", (two.lower(), one)),
        ("six", ()),
    ]
    assert found.requirements[0].line == f"numpy==2.1.0 --hash={two.lower()} --hash={one}"
    assert read(found.requirements[0].line)[0].requirements == found.requirements[:1]
    assert found.requirements[0] != Requirement("numpy==2.1.0")


def test_what_no_lock_has_for_a_hash_is_said() -> None:
    found, findings = read(f"six --hash=sha512:{'0' * 128}\n--hash=sha256:{'0' * 64}\n")
    assert [each.hashes for each in found.requirements] == [()]
    assert findings.warnings == (
        "requirements.txt:1:1: --hash=sha512:00000000… is ignored: locks have sha256, and no sha512",
        "requirements.txt:2:1: --hash is ignored: it belongs behind a requirement",
    )


@pytest.mark.parametrize(
    "value", ["sha256:00", f"md5:{'0' * 32}", "0" * 64, f"sha256:{'0' * 63}g", f"sha384:{'0' * 64}", "sha256"]
)
def test_what_is_no_hash_is_refused(value: str) -> None:
    problem = fault(f"six\nnumpy --hash={value}\n")
    assert "requirements.txt:2" in str(problem)
    assert f"not a hash; found {value!r}, expected sha256: and 64 hexadecimal digits" in str(problem)


def test_files_include_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/more.txt").write_text("b\n-c ../bounds.txt\n")
    (tmp_path / "bounds.txt").write_text("c<2\n-r rest.txt\n")
    (tmp_path / "rest.txt").write_text("d<3\n")
    found, findings = read("a\n-r sub/more.txt\ne\n", str(tmp_path / "requirements.txt"))
    assert not findings.problems
    assert [each.text for each in found.requirements] == ["a", "b", "e"]
    assert [each.text for each in found.constraints] == ["c<2", "d<3"]
    assert found.requirements[1].origin == Origin(str(tmp_path / "sub/more.txt"), 1)


def test_a_circle_of_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("-r b.txt\n")
    (tmp_path / "b.txt").write_text("-r a.txt\n")
    _, findings = read("-r b.txt\n", str(tmp_path / "a.txt"))
    assert "includes itself" in str(findings.problems[0])


def test_files_that_fan_out_are_stopped(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.txt").write_text(f"-r {number + 1}.txt\n" * 3)
    _, findings = read("-r 1.txt\n", str(tmp_path / "0.txt"))
    assert findings.problems
    assert "more than 10 levels or 100 included files" in str(findings.problems[0])


def test_a_missing_file_is_named_with_the_line_that_asks(tmp_path: Path) -> None:
    _, findings = read("a\n-r nope.txt\n", str(tmp_path / "r.txt"))
    problem = findings.problems[0]
    assert isinstance(problem, FileProblem)
    assert str(problem) == f"{tmp_path}/r.txt:2:1: No such file or directory: {tmp_path}/nope.txt"


def test_text_from_a_wire_reads_no_files() -> None:
    findings = Findings()
    parse_requirements("-r /etc/passwd\n", "r.txt", findings=findings, read=no_files)
    assert "can't be read from here" in str(findings.problems[0])


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("numpy=1.26", "not a requirement: 'numpy=1.26'", "a single `=` is conda's; for pip write `numpy==1.26`"),
        ("numpy 1.26", "not a requirement: 'numpy 1.26'", "did you mean `numpy==1.26`?"),
        ("numpy>=", "not a requirement", "a version is missing at the end"),
        ("numpy>=1.*", "not a requirement", "`.*` goes with `==` and `!=` only"),
        ("'numpy',", "not a requirement", "it looks like a line of a Python list; write `numpy`"),
        ("core=={{latest-pypi-version}}", "looks like an unfilled template", "fill the template in first"),
        ("-e .", "a local path can't be a requirement here", "an environment can't hold your working tree"),
        ("-e file:../x#egg=x", "a local path can't be a requirement here", "an environment can't hold"),
        ("./dist/x-1-py3-none-any.whl", "a local path can't be a requirement here", "an environment can't hold"),
        ("x @ file:///x.whl", "a local path can't be a requirement here", "an environment can't hold"),
        (
            "--indx-url https://example.org",
            "an option that requirements files don't have",
            "did you mean `--index-url`?",
        ),
        ("-r https://example.org/r.txt", "files can't be included from a URL", "keep a copy beside this file"),
        ("-r", "the option -r needs a value", None),
        ("-i example.org", "not the URL of an index; found 'example.org', expected http:// or https://", None),
        ("-i 'https://x", "not an option", None),
        ("x @ https://example.org/${A}.whl", "variables are not filled in", "write the value itself"),
    ],
)
def test_faults_say_where_what_and_what_to_do(line: str, message: str, hint: str | None) -> None:
    problem = fault(f"ok\n  {line}\n")
    assert isinstance(problem, InvalidLine)
    assert str(problem).startswith("requirements.txt:2:")
    assert message in str(problem)
    assert (problem.hint or "").startswith(hint or "")


def test_the_column_points_at_the_fault() -> None:
    assert fault("numpy>=1.26 oops\n").place.column == 13
    assert fault("  core=={{x}}\n").place.column == 9


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://me:hunter2@example.org/simple",
        "--extra-index-url https://hunter2@example.org/simple",
        "-f https://me:hunter2@example.org/wheels",
        "x @ https://me:hunter2@example.org/x-1-py3-none-any.whl",
        "https://example.org/x-1-py3-none-any.whl?sig=hunter2",
        "-e git+https://me:hunter2@example.org/x.git#egg=x",
    ],
)
def test_credentials_are_refused_and_not_repeated(line: str) -> None:
    problem = fault(line)
    assert isinstance(problem, CredentialInUrl)
    assert "hunter2" not in f"{problem} {problem.hint}"
    assert "UV_INDEX_" in (problem.hint or "")


def test_placeholders_for_credentials_are_taken_out_with_a_warning() -> None:
    found, findings = read("--extra-index-url https://${FEED_USER}:${FEED_TOKEN}@feed.example.org/simple\nx\n")
    assert not findings.problems
    assert found.sources.extra == (Index("https://feed.example.org/simple", "feed-example-org"),)
    assert "UV_INDEX_FEED_EXAMPLE_ORG_USERNAME" in findings.warnings[0]


def test_version_control_keeps_its_name() -> None:
    found, findings = read(
        "git+https://example.org/a.git@v1\n-e git+https://example.org/b.git@v1#egg=b[x]&subdirectory=s\n"
    )
    assert not findings.problems
    assert [each.text for each in found.requirements] == [
        "git+https://example.org/a.git@v1",
        "b[x] @ git+https://example.org/b.git@v1#subdirectory=s",
    ]
    assert "`-e` is ignored" in findings.warnings[0]


def test_a_local_directory_of_wheels_is_kept_as_a_url(tmp_path: Path) -> None:
    found, findings = read("--find-links wheels\n--no-index\n", str(tmp_path / "r.txt"))
    assert found.sources.extra[0].url == (tmp_path / "wheels").as_uri()
    assert found.sources.no_index
    assert "only this machine" in findings.warnings[0]


def test_several_faults_are_one_group() -> None:
    _, findings = read("a b\nc d\n")
    with pytest.raises(ExceptionGroup, match=r"2 problems in r\.txt") as caught:
        findings.raise_any("r.txt")
    assert all(isinstance(each, InvalidLine) for each in caught.value.exceptions)


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        ("numpy", True),
        ("numpy==1.26.4", True),
        ("a >= 2", True),
        ("Zope.Interface<=6", True),
        ("x.zip", False),
        ("x-1.tar.gz", False),
        ("numpy ", False),
        ("numpy[all]", False),
        ("numpy==1.26rc1", False),
        ("a" * 5000, False),
    ],
)
def test_plain_lines_are_those_that_would_be_kept_without_a_word(line: str, plain: bool) -> None:
    assert is_plain(line) is plain
    if plain:
        findings = Findings()
        assert check_requirement(line, Place("x"), findings).text == line
        assert not findings.problems
        assert not findings.warnings
