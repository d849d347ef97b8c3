"""
The documents say what is so: every package is on the map, every `--help` block is what the program prints.

A block that starts with `$ mlenv … --help` is compared with the real output. `make docs` writes it anew.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import commands

from mlenv.cli.parser import COMMANDS, Command

_REPOSITORY = Path(__file__).parents[1]
_SOURCE = _REPOSITORY / "src" / "mlenv"
_PAGES = sorted([*_REPOSITORY.glob("*.md"), *_REPOSITORY.glob("docs/**/*.md"), *_REPOSITORY.glob("examples/**/*.md")])
_HELP_BLOCK = re.compile(
    r"(?<=^```console\n)\$ mlenv (?P<arguments>[^\n]*--help)\n(?P<output>.*?)(?=^```$)", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"\[[^\]\n]+\]\((?P<target>[^)\s]+)\)")
#: Written in two halves, so that this file does not hold what it looks for.
_INDEX_HOSTS = [
    f"{name}.{domain}"
    for name, domain in (
        ("pypi", "org"),
        ("files.pythonhosted", "org"),
        ("download.pytorch", "org"),
        ("conda.anaconda", "org"),
        ("deb.debian", "org"),
        ("snapshot.debian", "org"),
    )
]


def _help(arguments: str) -> str:
    """What `mlenv ARGUMENTS` prints, 80 columns wide and without colour."""
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    return str(commands.run(*arguments.split(), env=environment, check=True).stdout)


def _normal(text: str) -> str:
    """Help as no Python version lays it out: line breaks differ, and `-f FILE, --file FILE` became `-f, --file FILE`."""
    text = re.sub(r"(-\w) (\S+), (--[\w-]+ \2)", r"\1, \3", " ".join(text.split()))
    return text.replace("[ ", "[").replace(" ]", "]")


def _blocks() -> Iterator[tuple[Path, re.Match[str]]]:
    for page in _PAGES:
        for block in _HELP_BLOCK.finditer(page.read_text()):
            yield page, block


def _commands(command: Command, words: str = "") -> Iterator[str]:
    """Every command that does something: `environment create`."""
    for child in command.children:
        yield from _commands(child, f"{words} {child.name}".strip())
    if not command.children:
        yield words


def _rewrite() -> None:
    for page in _PAGES:
        text = page.read_text()
        fresh = _HELP_BLOCK.sub(lambda block: f"$ mlenv {block['arguments']}\n{_help(block['arguments'])}", text)
        if fresh != text:
            page.write_text(fresh)


if os.environ.get("MLENV_REWRITE_DOCS"):
    _rewrite()


def test_readme_shows_help() -> None:
    assert any(page.name == "README.md" for page, _ in _blocks())


@pytest.mark.parametrize(
    ("page", "block"), [pytest.param(page, block, id=f"{page.name}: {block['arguments']}") for page, block in _blocks()]
)
def test_help_block_is_what_the_program_prints(page: Path, block: re.Match[str]) -> None:
    assert _normal(block["output"]) == _normal(_help(block["arguments"])), f"`make docs` writes {page.name} anew"


def test_every_command_has_a_block() -> None:
    shown = {block["arguments"] for page, block in _blocks() if page.name == "cli.md"}
    assert shown == {f"{command} --help" for command in _commands(COMMANDS)}


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("  -f FILE, --file FILE  a file", "  -f, --file FILE  a file"),
        ("usage: mlenv [-h]\n             [-n NAME]", "usage: mlenv [-h] [-n NAME]"),
        ("  -o {json,yaml}, --output {json,yaml}\n     form", "  -o, --output {json,yaml}\n     form"),
    ],
)
def test_layouts_of_different_python_versions_are_equal(older: str, newer: str) -> None:
    assert _normal(older) == _normal(newer)


def _packages() -> Iterator[str]:
    for path in sorted(_SOURCE.iterdir()):
        if path.is_dir() and (path / "__init__.py").exists():
            yield f"{path.name}/"
        elif path.suffix == ".py" and not path.name.startswith("_"):
            yield path.name


@pytest.mark.parametrize("package", list(_packages()))
def test_every_package_is_on_the_map(package: str) -> None:
    assert f"`{package}`" in (_REPOSITORY / "ARCHITECTURE.md").read_text()


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = [match["target"].partition("#")[0] for match in _LINK.finditer(page.read_text())]
    local = [target for target in targets if target and "://" not in target and not target.startswith("mailto:")]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_ci_calls_the_test_command_of_the_readme() -> None:
    """The README's second command sets up and passes the tests; CI runs that and nothing else in its place."""
    commands = re.findall(
        r"^```(?:sh|bash)\n(.*?)\n```$", (_REPOSITORY / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert "mlenv run --file examples/sklearn/environment.yml" in commands[0]
    assert commands[1] in (_REPOSITORY / ".ci" / "run").read_text().splitlines()


def test_nothing_names_a_host_of_packages() -> None:
    """Where packages come from is the user's and the machine's choice, never ours."""
    tracked = [_REPOSITORY / name for name in ("src", "tests", "docs", "benchmarks", "examples", "tools", ".ci")]
    files = [path for each in tracked for path in each.rglob("*") if path.suffix in {".py", ".md", ".yml", ".txt", ""}]
    files += [*_REPOSITORY.glob("*.md"), *_REPOSITORY.glob("*.toml"), _REPOSITORY / "Makefile"]
    named = []
    for path in (each for each in files if each.is_file()):
        text = path.read_text(errors="replace")
        named += [f"{path.relative_to(_REPOSITORY)}: {host}" for host in _INDEX_HOSTS if host in text]
    assert named == []
