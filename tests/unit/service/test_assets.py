"""Components, code and the like: kept as sent, found again, never changed under a version."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from mlenv.core.assets import AssetConflict, AssetKind, AssetNotFound
from mlenv.core.audit import Author
from mlenv.core.environment import Definition, View
from mlenv.core.reference import InvalidName, Reference, parse_name, parse_version
from mlenv.core.scope import Scope, ScopeKind
from mlenv.core.spec import Spec
from mlenv.errors import Forbidden, InvalidInput
from mlenv.service.assets import Assets, InvalidAsset, MissingEnvironment
from mlenv.wiring.hosted import Hosted, InScope

_NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
_AUTHOR = Author("1", "ada")


def _scope(name: str, kind: ScopeKind = ScopeKind.WORKSPACE) -> Scope:
    return Scope(kind, name, f"id-{name}", "sub", "rg", "local", _NOW)


@pytest.fixture(params=["sqlite", "postgresql"])
def hosted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hosted]:
    database = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    with Hosted(tmp_path, database) as made:
        yield made


@pytest.fixture
def services(hosted: Hosted) -> InScope:
    return hosted.services(_scope("team"), _AUTHOR)


@pytest.fixture
def assets(services: InScope) -> Assets:
    return services.assets


def _environment(services: InScope, name: str = "train", version: str = "1") -> None:
    services.environments.create(Definition(parse_name(name), Spec(image="debian:12"), parse_version(version)))


def test_what_is_put_is_what_is_found(assets: Assets) -> None:
    saved = assets.put(AssetKind.ENDPOINT, "iris", "", {"location": "here", "tags": {"é": "ü"}})
    assert saved.new
    found = assets.get(AssetKind.ENDPOINT, "iris")
    assert found == saved.asset
    assert found.document == {"location": "here", "tags": {"é": "ü"}}
    again = assets.put(AssetKind.ENDPOINT, "iris", "", {"location": "there"})
    assert not again.new
    assert assets.get(AssetKind.ENDPOINT, "iris").document == {"location": "there"}
    assert again.asset.sequence == saved.asset.sequence
    assert assets.remove(AssetKind.ENDPOINT, "iris")
    assert not assets.remove(AssetKind.ENDPOINT, "iris")
    with pytest.raises(AssetNotFound, match="there is no endpoint 'iris'"):
        assets.get(AssetKind.ENDPOINT, "iris")


def test_a_version_keeps_its_content_and_may_change_the_rest(assets: Assets) -> None:
    first = assets.put(AssetKind.COMPONENT, "train", "1", {"spec": 1, "tags": {}}, lookup="a")
    with pytest.raises(
        AssetConflict, match="Component train with version 1 is already registered and cannot be changed"
    ):
        assets.put(AssetKind.COMPONENT, "train", "1", {"spec": 2}, lookup="b")
    second = assets.put(AssetKind.COMPONENT, "train", "1", {"spec": 1, "tags": {"x": "y"}}, lookup="a")
    assert (first.new, second.new) == (True, False)
    assert assets.get(AssetKind.COMPONENT, "train", "1").document["tags"] == {"x": "y"}


def test_content_is_its_own_identity_where_no_other_is_given(assets: Assets) -> None:
    assert assets.put(AssetKind.CODE, "c", "1", {"codeUri": "a"}).new
    assert not assets.put(AssetKind.CODE, "c", "1", {"codeUri": "a"}).new
    with pytest.raises(AssetConflict):
        assets.put(AssetKind.CODE, "c", "1", {"codeUri": "b"})


def test_code_is_found_by_its_hash_across_names(assets: Assets) -> None:
    assets.put(AssetKind.CODE, "random-1", "1", {"codeUri": "a"}, lookup="abc")
    assets.put(AssetKind.CODE, "random-2", "1", {"codeUri": "b"}, lookup="def")
    assert [each.name for each in assets.find(AssetKind.CODE, "abc")] == ["random-1"]
    assert assets.find(AssetKind.CODE, "ghi") == []


def test_next_version_follows_the_highest_number(assets: Assets) -> None:
    assert assets.next_version(AssetKind.COMPONENT, "train") == "1"
    for version in ("1", "9", "2", "beta"):
        assets.put(AssetKind.COMPONENT, "train", version, {"v": version})
    assert assets.next_version(AssetKind.COMPONENT, "train") == "10"
    assert assets.latest(AssetKind.COMPONENT, "train").version == "beta"


def test_pages_are_the_newest_first_and_hide_what_is_archived(assets: Assets) -> None:
    for number in range(5):
        assets.put(AssetKind.COMPONENT, f"c{number}", "1", {"n": number})
        assets.put(AssetKind.COMPONENT, f"c{number}", "2", {"n": number})
    assets.set_archived(AssetKind.COMPONENT, "c3", "1", True)
    assets.set_archived(AssetKind.COMPONENT, "c3", "2", True)
    first = assets.list(AssetKind.COMPONENT, newest_of_each=True, limit=2)
    assert [(each.name, each.version) for each in first] == [("c4", "2"), ("c2", "2")]
    rest = assets.list(AssetKind.COMPONENT, newest_of_each=True, limit=2, after=first[-1].sequence)
    assert [each.name for each in rest] == ["c1", "c0"]
    assert [each.name for each in assets.list(AssetKind.COMPONENT, View.ARCHIVED)] == ["c3", "c3"]
    assert [each.version for each in assets.list(AssetKind.COMPONENT, View.ALL, name="c3")] == ["2", "1"]


def test_an_environment_is_looked_for_and_remembered(services: InScope, assets: Assets) -> None:
    _environment(services)
    with pytest.raises(MissingEnvironment, match="has no version '2'"):
        assets.put(AssetKind.DEPLOYMENT, "iris/blue", "", {}, environment=Reference.parse("train:2"))
    with pytest.raises(InvalidInput, match="no environment is named 'other'"):
        assets.put(AssetKind.DEPLOYMENT, "iris/blue", "", {}, environment=Reference.parse("other:2"))
    with pytest.raises(AssetNotFound):
        assets.get(AssetKind.DEPLOYMENT, "iris/blue")
    reference = Reference.parse(f"{_scope('team').address}/environments/train/versions/1")
    saved = assets.put(AssetKind.DEPLOYMENT, "iris/blue", "", {}, environment=reference)
    assert saved.asset.environment == "train:1"
    version = services.environments.version(Reference.parse("train:1"))
    assert [each.name for each in assets.users_of(version)] == ["iris/blue"]


def test_an_environment_may_be_in_another_namespace(hosted: Hosted, assets: Assets) -> None:
    shared = hosted.services(_scope("common", ScopeKind.REGISTRY), _AUTHOR)
    _environment(shared)
    reference = Reference.parse("azureml://registries/common/environments/train/versions/1")
    with pytest.raises(MissingEnvironment):
        assets.put(AssetKind.COMPONENT, "c", "1", {}, environment=reference)
    saved = assets.put(
        AssetKind.COMPONENT,
        "c",
        "1",
        {},
        environment=reference,
        elsewhere=lambda wanted: shared if wanted.registry == "common" else None,
    )
    assert saved.asset.environment == str(reference)


@pytest.mark.parametrize("name", ["", "a/../b", "a b", "x" * 300, "a/", "é\n", "a:b"])
def test_names_are_checked(assets: Assets, name: str) -> None:
    with pytest.raises(InvalidName, match="not a valid endpoint name: "):
        assets.put(AssetKind.ENDPOINT, name, "", {})


@pytest.mark.parametrize(
    "document",
    [
        {"x": float("nan")},
        {"x": "\ud800"},
        {"x": "y" * (1 << 20)},
        {"x": {1, 2}},
        {"x": json.loads("[" * 100 + "]" * 100)},
    ],
)
def test_documents_are_checked(assets: Assets, document: dict[str, object]) -> None:
    with pytest.raises(InvalidAsset):
        assets.put(AssetKind.ENDPOINT, "iris", "", document)


def test_a_document_may_have_a_hundred_levels(assets: Assets) -> None:
    document = {"x": json.loads("[" * 99 + "]" * 99)}
    assert assets.put(AssetKind.ENDPOINT, "iris", "", document).asset.document == document


def test_namespaces_do_not_see_each_other(hosted: Hosted, assets: Assets) -> None:
    assets.put(AssetKind.ENDPOINT, "iris", "", {})
    other = hosted.services(_scope("other"), _AUTHOR).assets
    assert other.list(AssetKind.ENDPOINT) == []
    with pytest.raises(AssetNotFound):
        other.get(AssetKind.ENDPOINT, "iris")


def test_what_was_opened_for_reading_does_not_write(hosted: Hosted, assets: Assets) -> None:
    assets.put(AssetKind.ENDPOINT, "iris", "", {})
    reading = hosted.services(_scope("team"), None).assets
    with pytest.raises(Forbidden):
        reading.put(AssetKind.ENDPOINT, "iris", "", {"x": 1})
    with pytest.raises(Forbidden):
        reading.remove(AssetKind.ENDPOINT, "iris")
    with pytest.raises(Forbidden):
        reading.set_archived(AssetKind.ENDPOINT, "iris", "", True)
    assert reading.get(AssetKind.ENDPOINT, "iris").document == {}


def test_every_change_is_audited_without_what_is_in_the_document(hosted: Hosted, assets: Assets) -> None:
    assets.put(AssetKind.ENDPOINT, "iris", "", {"key": "hidden-from-view"})
    assets.put(AssetKind.ENDPOINT, "iris", "", {"key": "hidden-from-view"})
    assets.set_archived(AssetKind.ENDPOINT, "iris", "", True)
    assets.remove(AssetKind.ENDPOINT, "iris")
    records = hosted.site.store.audit(_scope("team").key, limit=10)
    assert [each.change.action for each in records] == ["endpoint.create", "endpoint.update", "endpoint.delete"]
    assert [each.author.name for each in records] == ["ada"] * 3
    assert "hidden-from-view" not in str([each.to_dict() for each in records])


def test_many_at_once_lose_nothing(assets: Assets) -> None:
    with ThreadPoolExecutor(8) as pool:
        saved = list(pool.map(lambda n: assets.put(AssetKind.COMPONENT, "c", str(n % 20), {"n": n % 20}), range(60)))
    assert sum(each.new for each in saved) == 20
    assert sorted(each.sequence for each in assets.list(AssetKind.COMPONENT)) == list(range(1, 21))


def test_an_edit_sees_what_others_wrote(assets: Assets) -> None:
    assets.put(AssetKind.ENDPOINT, "count", "", {"n": 0})

    def more(_: int) -> None:
        assets.update(
            AssetKind.ENDPOINT, "count", "", lambda asset: replace(asset, document={"n": asset.document["n"] + 1})
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(more, range(40)))
    assert assets.get(AssetKind.ENDPOINT, "count").document == {"n": 40}
