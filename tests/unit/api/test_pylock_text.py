"""`pylock.toml` as a definition, and what a target takes of it."""

import pytest

from mlenv.api.problems import CredentialInUrl, InvalidField, InvalidSyntax
from mlenv.api.pylock import parse_pylock
from mlenv.core.lock import InvalidLock
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.pylock_select import NoSize, NothingToInstall, select_pylock

SHA = "0" * 64


def wheel(filename: str, *, size: str = "size = 10, ") -> str:
    return f'{{ url = "https://example.org/{filename}", {size}hashes = {{ sha256 = "{SHA}" }} }}'


HEAD = 'lock-version = "1.0"\ncreated-by = "test"\n'
WHOLE = f"""{HEAD}requires-python = ">=3.10.2"
extras = ["gpu"]
dependency-groups = ["dev"]
default-groups = []

[[packages]]
name = "numpy"
version = "2.1.0"
wheels = [
    {wheel("numpy-2.1.0-cp311-cp311-manylinux_2_28_x86_64.whl")},
    {wheel("numpy-2.1.0-cp311-cp311-manylinux_2_34_x86_64.whl")},
    {wheel("numpy-2.1.0-cp311-cp311-manylinux2014_aarch64.whl")},
    {wheel("numpy-2.1.0-cp312-cp312-manylinux_2_28_x86_64.whl")},
    {wheel("numpy-2.1.0-cp311-cp311-macosx_11_0_arm64.whl")},
    {wheel("numpy-2.1.0-cp311-cp311-win_amd64.whl")},
]

[[packages]]
name = "colorama"
version = "0.4"
marker = "sys_platform == 'win32'"
wheels = [{wheel("colorama-0.4-py3-none-any.whl")}]

[[packages]]
name = "torch"
version = "2.5"
marker = "'gpu' in extras"
dependencies = [{{ name = "numpy" }}]
wheels = [{wheel("torch-2.5-cp311-none-any.whl")}]

[[packages]]
name = "pytest"
version = "8.0"
marker = "'dev' in dependency_groups"
wheels = [{wheel("pytest-8.0-py3-none-any.whl")}]

[[packages]]
name = "attrs"
version = "24.1"
wheels = [{wheel("attrs-24.1-py2.py3-none-any.whl")}]
"""

LINUX = Target(Platform("linux", "amd64"), "3.11", Glibc(2, 28))


def names(target: Target, *, extras: tuple[str, ...] = (), groups: tuple[str, ...] | None = None) -> list[str]:
    return [each.artifact.filename for each in select_pylock(WHOLE, target, extras=extras, groups=groups)]


def test_a_lock_is_kept_as_it_is() -> None:
    found = parse_pylock(WHOLE, "pylock.toml")
    assert found.pylock == WHOLE
    assert found.python == ">=3.10.2"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (LINUX, "numpy-2.1.0-cp311-cp311-manylinux_2_28_x86_64.whl"),
        (
            Target(Platform("linux", "amd64"), "3.11.2", Glibc(2, 36)),
            "numpy-2.1.0-cp311-cp311-manylinux_2_34_x86_64.whl",
        ),
        (Target(Platform("linux", "arm64"), "3.11", Glibc(2, 28)), "numpy-2.1.0-cp311-cp311-manylinux2014_aarch64.whl"),
        (Target(Platform("linux", "amd64"), "3.12", Glibc(2, 28)), "numpy-2.1.0-cp312-cp312-manylinux_2_28_x86_64.whl"),
        (Target(Platform("darwin", "arm64"), "3.11"), "numpy-2.1.0-cp311-cp311-macosx_11_0_arm64.whl"),
        (Target(Platform("windows", "amd64"), "3.11"), "numpy-2.1.0-cp311-cp311-win_amd64.whl"),
    ],
)
def test_each_target_gets_its_wheel(target: Target, expected: str) -> None:
    assert expected in names(target)
    assert ("colorama-0.4-py3-none-any.whl" in names(target)) == (target.platform.os == "windows")


@pytest.mark.parametrize(
    ("tag", "glibc", "fits"),
    [
        ("manylinux1", Glibc(2, 5), True),
        ("manylinux2010", Glibc(2, 12), True),
        ("manylinux2010", Glibc(2, 11), False),
        ("manylinux2014", Glibc(2, 16), False),
        ("manylinux_2_17", Glibc(2, 17), True),
        ("linux", Glibc(2, 5), True),
    ],
)
def test_old_names_of_glibc_levels(tag: str, glibc: Glibc, fits: bool) -> None:
    filename = f"a-1-cp311-abi3-{tag}_x86_64.whl"
    text = f'{HEAD}[[packages]]\nname = "a"\nversion = "1"\nwheels = [{wheel(filename)}]\n'
    target = Target(Platform("linux", "amd64"), "3.11", glibc)
    if fits:
        assert select_pylock(text, target)[0].artifact.filename == filename
    else:
        with pytest.raises(NothingToInstall):
            select_pylock(text, target)


def test_extras_and_groups_are_chosen() -> None:
    assert "torch-2.5-cp311-none-any.whl" not in names(LINUX)
    assert "torch-2.5-cp311-none-any.whl" in names(LINUX, extras=("GPU",))
    assert "pytest-8.0-py3-none-any.whl" in names(LINUX, groups=("dev",))
    with pytest.raises(InvalidLock, match="no extra 'tpu'; it has gpu"):
        names(LINUX, extras=("tpu",))


def test_packages_are_sorted_and_know_what_they_need() -> None:
    packages = select_pylock(WHOLE, LINUX, extras=("gpu",))
    assert [each.name for each in packages] == ["attrs", "numpy", "torch"]
    assert packages[2].requires == ("numpy",)
    assert (packages[0].artifact.size, packages[0].artifact.url) == (
        10,
        "https://example.org/attrs-24.1-py2.py3-none-any.whl",
    )


def test_every_package_without_a_wheel_is_named() -> None:
    text = HEAD + "".join(
        f'[[packages]]\nname = "{name}"\nversion = "1"\n{source}\n'
        for name, source in [
            ("c-source", f"sdist = {wheel('c_source-1.tar.gz')}"),
            ("a-other", f"wheels = [{wheel('a_other-1-cp27-cp27m-win32.whl')}]"),
            ("b-vcs", 'vcs = { type = "git", url = "https://example.org/b.git", commit-id = "00" }'),
            ("d-dir", 'directory = { path = "." }'),
        ]
    )
    with pytest.raises(NothingToInstall) as caught:
        select_pylock(text, LINUX)
    assert [name for name, _ in caught.value.packages] == ["a-other", "b-vcs", "c-source", "d-dir"]
    assert "none of its 1 wheels fits linux/amd64, Python 3.11 and glibc 2.28" in str(caught.value)


def test_a_python_out_of_range_is_refused() -> None:
    with pytest.raises(InvalidLock, match=r"not for linux/amd64 with Python 3\.9"):
        names(Target(Platform("linux", "amd64"), "3.9", Glibc(2, 28)))
    assert names(Target(Platform("linux", "amd64"), "3.11.0", Glibc(2, 28)))


def test_a_wheel_without_a_size_or_hash_is_refused() -> None:
    head = HEAD + '[[packages]]\nname = "a"\nversion = "1"\n'
    with pytest.raises(NoSize, match=r"a-1-py3-none-any\.whl has no size"):
        select_pylock(f"{head}wheels = [{wheel('a-1-py3-none-any.whl', size='')}]\n", LINUX)
    with pytest.raises(InvalidLock, match="has no sha256"):
        select_pylock(
            head + 'wheels = [{ url = "https://example.org/a-1-py3-none-any.whl", hashes = { md5 = "00" } }]\n', LINUX
        )


@pytest.mark.parametrize("filename", ["evil-1-py3-none-any.whl", "a-2-py3-none-any.whl"])
def test_a_wheel_of_another_package_is_refused(filename: str) -> None:
    text = f'{HEAD}[[packages]]\nname = "a"\nversion = "1"\nwheels = [{wheel(filename)}]\n'
    with pytest.raises(InvalidLock, match=f"in '{filename}' is not consistent"):
        select_pylock(text, LINUX)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("lock-version = ", InvalidSyntax, "pylock.toml:1:16: not TOML"),
        ('lock-version = "9.0"\ncreated-by = "x"\npackages = []\n', InvalidField, "a version that is not known"),
        ('lock-version = "1.0"\n', InvalidField, "not a lock as PEP 751 has it"),
        (HEAD + '[[packages]]\nname = "a"\n', InvalidField, "packages[0]"),
    ],
)
def test_what_is_no_lock(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        parse_pylock(text, "pylock.toml")
    assert message in str(caught.value)


def test_credentials_in_a_lock_are_refused() -> None:
    text = WHOLE.replace("https://example.org/attrs", "https://me:hunter2@example.org/attrs")
    with pytest.raises(CredentialInUrl, match=r"packages\[4\]\.wheels\[0\]\.url") as caught:
        parse_pylock(text, "pylock.toml")
    assert "hunter2" not in str(caught.value)
    assert caught.value.place.line is not None


def test_a_size_that_the_lock_does_not_tell_is_asked_for() -> None:
    text = f'{HEAD}[[packages]]\nname = "a"\nversion = "1"\nwheels = [{wheel("a-1-py3-none-any.whl", size="")}]\n'
    sizes = {"https://example.org/a-1-py3-none-any.whl": 1234}
    (package,) = select_pylock(text, LINUX, size_of=sizes.__getitem__)
    assert package.artifact.size == 1234
