"""Use cases of environments, over the registry in memory."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from mlenv.core.environment import Definition, EnvironmentVersion, View
from mlenv.core.reference import EnvironmentName, LabelName, Reference, VersionName
from mlenv.core.refusals import EnvironmentArchived, EnvironmentNotFound, LabelNotFound, VersionChanged, VersionNotFound
from mlenv.core.spec import Spec
from mlenv.service import environments as module
from mlenv.service.environments import Change, Environments, InvalidText, RegistryNotHere
from mlenv.store.memory import MemoryRegistry

START = datetime(2026, 3, 1, tzinfo=UTC)
WORKSPACE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
PRODUCTION = LabelName("production")


def ticking() -> Iterator[datetime]:
    return (START + timedelta(seconds=number) for number in count())


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


@pytest.fixture
def environments(registry: MemoryRegistry) -> Environments:
    times = ticking()
    made = Environments(registry, lambda: next(times))
    for image in ("a", "b", "c"):
        made.create(Definition(EnvironmentName("iris"), Spec(image=image)))
    return made


def ref(text: str) -> Reference:
    return Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("iris", "c"),
        ("iris@latest", "c"),
        ("iris:1", "a"),
        ("azureml:iris:2", "b"),
        ("iris@production", "a"),
        (
            f"azureml:{WORKSPACE}/environments/iris/versions/2",
            "b",
        ),
    ],
)
def test_every_spelling_of_a_reference_is_resolved(environments: Environments, text: str, image: str) -> None:
    environments.set_label(ref("iris:1"), PRODUCTION)
    assert environments.version(ref(text)).spec.image == image


def test_newest_is_not_an_archived_one_while_there_are_others(environments: Environments) -> None:
    environments.set_archived(ref("iris:3"), True)
    assert environments.version(ref("iris")).version == "2"
    environments.set_archived(ref("iris"), True)
    assert environments.version(ref("iris")).version == "3"
    assert environments.version(ref("iris:1")).archived


def test_what_is_not_there_is_told(environments: Environments) -> None:
    with pytest.raises(EnvironmentNotFound, match="'Iriss'") as missing:
        environments.version(ref("Iriss"))
    assert missing.value.hint == "did you mean 'iris'?"
    with pytest.raises(VersionNotFound):
        environments.version(ref("iris:9"))
    environments.set_label(ref("iris:1"), PRODUCTION)
    with pytest.raises(LabelNotFound) as label:
        environments.version(ref("iris@prod"))
    assert label.value.labels == ("latest", "production")
    with pytest.raises(RegistryNotHere, match="'azureml'"):
        environments.version(ref("azureml://registries/azureml/environments/iris/versions/1"))


def test_lists_are_read_page_by_page(environments: Environments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    for name in ("a", "b", "c", "d"):
        environments.create(Definition(EnvironmentName(name), Spec(image="x")))
    assert [each.name for each in environments.environments()] == ["a", "b", "c", "d", "iris"]
    assert [each.name for each in environments.environments(limit=3)] == ["a", "b", "c"]
    assert [each.version for each in environments.versions(ref("iris"))] == ["3", "2", "1"]
    assert [each.version for each in environments.versions(ref("iris:2"))] == ["2"]
    with pytest.raises(EnvironmentNotFound):
        environments.versions(ref("nothing"))


def test_archived_ones_are_listed_when_asked_for(environments: Environments) -> None:
    environments.set_archived(ref("iris@latest"), True)
    assert [each.version for each in environments.versions(ref("iris"))] == ["2", "1"]
    assert [each.version for each in environments.versions(ref("iris"), View.ARCHIVED)] == ["3"]
    assert len(list(environments.versions(ref("iris"), View.ALL))) == 3
    environments.set_archived(ref("iris"), True)
    assert list(environments.environments()) == []
    with pytest.raises(EnvironmentArchived) as refused:
        environments.set_archived(ref("iris:1"), False)
    assert refused.value.hint == "restore the environment first: `mlenv environment restore iris`"
    environments.set_archived(ref("iris"), False)
    assert [each.version for each in environments.versions(ref("iris"))] == ["2", "1"]


def test_update_changes_description_and_tags(environments: Environments) -> None:
    one = ref("iris:1")
    changed = environments.update(one, Change(description="text", set_tags={"a": "1", "b": "2"}))
    assert (changed.description, changed.tags) == ("text", {"a": "1", "b": "2"})
    changed = environments.update(one, Change(set_tags={"b": "3"}, remove_tags=("a",)))
    assert (changed.description, changed.tags) == ("text", {"b": "3"})
    changed = environments.update(one, Change(description="", replace_tags={}))
    assert (changed.description, changed.tags) == (None, {})
    with pytest.raises(InvalidText, match="no such tag"):
        environments.update(one, Change(remove_tags=("a",)))
    assert environments.version(one) == changed


def test_update_of_an_archived_version_leaves_it_archived(environments: Environments) -> None:
    environments.set_archived(ref("iris:1"), True)
    assert environments.update(ref("iris:1"), Change(description="x")).archived


class Meddling(MemoryRegistry):
    """Somebody else always changes a version just before we do, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def version(self, name: EnvironmentName, version: VersionName) -> EnvironmentVersion:
        found = super().version(name, version)
        if self.times > 0:
            self.times -= 1
            tags = {**found.tags, f"other{self.times}": "x"}
            self.update_version(name, version, now=found.modified_at, description=None, tags=tags)
        return found


def test_update_keeps_what_others_change_at_the_same_time() -> None:
    environments = Environments(registry := Meddling(3), lambda: START)
    environments.create(Definition(EnvironmentName("iris"), Spec(image="a")))
    changed = environments.update(ref("iris:1"), Change(set_tags={"mine": "1"}))
    assert changed.tags == {"mine": "1", "other0": "x", "other1": "x", "other2": "x"}
    registry.times = 1000
    with pytest.raises(VersionChanged):
        environments.update(ref("iris:1"), Change(set_tags={"mine": "2"}))


def test_labels_are_listed_with_their_history(environments: Environments) -> None:
    environments.set_label(ref("iris:1"), PRODUCTION)
    environments.set_label(ref("iris"), PRODUCTION)
    labels = environments.labels(ref("iris"))
    assert [each.version for each in labels[PRODUCTION]] == ["3", "1"]


@pytest.mark.parametrize(
    ("description", "tags", "message"),
    [
        ("a\0b", {}, "the description has a NUL character"),
        ("\ud800", {}, "the description is not Unicode"),
        ("x" * 65_537, {}, "the description is too long"),
        (None, {"": "x"}, "a tag's name is empty"),
        (None, {"k" * 513: "x"}, "the name of tag .* is too long"),
        (None, {"k": "\0"}, "the value of tag 'k' has a NUL"),
        (None, {str(number): "" for number in range(101)}, "the tags are too many: 101, at most 100"),
    ],
)
def test_text_that_cannot_be_kept_is_refused(
    environments: Environments, description: str | None, tags: dict[str, str], message: str
) -> None:
    bad = Definition(EnvironmentName("new"), Spec(image="a"), None, description, tags)
    with pytest.raises(InvalidText, match=message):
        environments.create(bad)
    with pytest.raises(InvalidText, match=message):
        environments.update(ref("iris:1"), Change(description=description, replace_tags=tags))
    assert len(list(environments.environments())) == 1


def test_spec_that_is_not_unicode_is_refused(environments: Environments) -> None:
    with pytest.raises(InvalidText, match="the definition has text that is not Unicode"):
        environments.create(Definition(EnvironmentName("new"), Spec(image="a\udcff")))
