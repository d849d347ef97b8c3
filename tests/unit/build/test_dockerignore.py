import pytest

from mlenv.build.dockerignore import Ignore, InvalidIgnoreFile


@pytest.mark.parametrize(
    ("patterns", "out", "kept"),
    [
        ("*.log", ["a.log"], ["x/a.log", "a.txt"]),
        ("**/*.log", ["a.log", "x/a.log", "x/y/a.log"], ["a.log2"]),
        ("/a", ["a", "a/b", "a/b/c"], ["x/a", "ab"]),
        ("a/", ["a", "a/b"], ["ab"]),
        ("*/temp*", ["x/temp", "x/temporary/y"], ["temp", "x/y/temp"]),
        ("*/*/temp*", ["x/y/temp.txt"], ["x/temp"]),
        ("temp?", ["tempa", "tempb/x"], ["temp", "tempab"]),
        ("*.md\n!README.md", ["a.md"], ["README.md"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["a.md", "README-secret.md"], ["README.md", "README2.md"]),
        ("*.md\nREADME-secret.md\n!README*.md", ["a.md"], ["README-secret.md"]),
        ("*\n!src", ["a", "a/b"], ["src", "src/a", "src/a/b"]),
        ("**", ["a", "a/b"], []),
        ("a/**", ["a/b", "a/b/c"], ["a", "b"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["z", "a/zz"]),
        ("**/x", ["x", "a/x", "a/b/x/y"], ["xx"]),
        ("  spaced  ", ["spaced"], [" spaced"]),
        ("# comment\n\n #no-comment", [" #no-comment".strip()], ["# comment"]),
        ("\ufeffa", ["a"], []),
        ("./a/../b", ["b"], ["a"]),
        ("[a-c]x", ["ax", "cx"], ["dx"]),
        ("[^a]x", ["bx"], ["ax", "/x"]),
        (r"\*x", ["*x"], ["ax"]),
        ("a.b+(c)", ["a.b+(c)"], ["aXb+(c)"]),
        ("!a", [], ["a"]),
        ("! a \nb", ["b"], ["a"]),
        ("a\u2028b\r\nc", ["a\u2028b", "c"], ["a", "b"]),
        ("", [], ["a"]),
    ],
)
def test_docker_rules(patterns: str, out: list[str], kept: list[str]) -> None:
    ignore = Ignore.parse(patterns)
    assert [each for each in [*out, *kept] if ignore.excludes(each)] == out


@pytest.mark.parametrize("pattern", ["[a", "[]", "[a-", "a\\", "!"])
def test_what_is_no_pattern_is_said_with_its_line(pattern: str) -> None:
    with pytest.raises(InvalidIgnoreFile) as caught:
        Ignore.parse(f"x\n{pattern}\n")
    assert caught.value.line == 2
