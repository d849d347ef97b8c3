import pytest
from msgspec.structs import replace

from mlenv.core.digest import Digest
from mlenv.core.installed import Installed, InstalledPackage, with_installed
from mlenv.core.lock import InvalidLock, Lock, LockedBase, LockedContext
from mlenv.core.platform import Platform, Target
from mlenv.core.spec import BuildContext, Spec
from mlenv.errors import InvalidInput

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")
CONTEXT = LockedContext(
    ONE,
    "docker/Dockerfile",
    (LockedBase("debian:12", TWO), LockedBase("tools", ONE, Platform("linux", "arm64"))),
    (("A", "1"), ("B", 'x "y"\n')),
)
LOCK = Lock(Target(Platform("linux", "amd64"), "", None), (), "dockerfile", base=TWO, context=CONTEXT)


def test_a_lock_of_a_context_is_pep_751_and_comes_back() -> None:
    text = LOCK.to_pylock()
    assert Lock.from_pylock(text) == LOCK
    assert "packages = []" in text
    assert "requires-python" not in text
    assert LOCK.digest == Digest.of(text.encode())


@pytest.mark.parametrize(
    "context",
    [
        replace(CONTEXT, digest=TWO),
        replace(CONTEXT, dockerfile="Dockerfile"),
        replace(CONTEXT, bases=CONTEXT.bases[:1]),
        replace(CONTEXT, arguments=(("A", "2"),)),
    ],
)
def test_whatever_decides_the_image_is_in_the_digest(context: LockedContext) -> None:
    assert replace(LOCK, context=context).digest != LOCK.digest


def test_a_scratch_image_is_known_by_its_context() -> None:
    assert (LOCK.foundation, replace(LOCK, base=None).foundation) == (TWO, ONE)
    assert replace(LOCK, base=None, context=None).foundation is None


@pytest.mark.parametrize(
    ("old", "new"), [("digest = ", "digets = "), ('"docker/Dockerfile"', "1"), ("[[tool", "[tool")]
)
def test_a_damaged_lock_is_refused(old: str, new: str) -> None:
    with pytest.raises(InvalidInput):
        Lock.from_pylock(LOCK.to_pylock().replace(old, new))
    with pytest.raises(InvalidLock):
        Lock.from_pylock("")


def test_a_context_is_what_it_holds_and_not_where_it_was() -> None:
    here = Spec(build=BuildContext("/home/a/context", "D", ONE))
    there = Spec(build=BuildContext("/home/b", "D", ONE))
    assert here.digest == there.digest
    assert Spec(build=BuildContext("/home/b", "E", ONE)).digest != there.digest
    assert Spec(build=BuildContext("/home/b", "D", TWO)).digest != there.digest
    assert Spec(build=BuildContext("/a")).digest != Spec(build=BuildContext("/b")).digest
    assert Spec.from_dict(here.to_dict()) == here


def test_installed_packages_stand_for_locked_ones() -> None:
    installed = Installed("3.11.2", (InstalledPackage("a", "1", "/s", ONE, 10), InstalledPackage("b", "2", "/s")))
    assert Installed.from_json(installed.to_json()) == installed
    shown = with_installed(LOCK, installed)
    assert [(each.name, each.version, each.artifact.size) for each in shown.packages] == [("a", "1", 10), ("b", "2", 0)]
    assert shown.target.python == "3.11.2"
    other = replace(installed, packages=(InstalledPackage("a", "1", "/s", TWO, 10), installed.packages[1]))
    assert with_installed(LOCK, other).packages[0] != shown.packages[0]
    assert with_installed(LOCK, other).packages[1] == shown.packages[1]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"packages": [1], "python": null}', '{"packages": [["a"]]}'])
def test_an_annotation_of_somebody_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Installed.from_json(text)
