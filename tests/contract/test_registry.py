"""What every `service.interface.Registry` must do: one suite over SQLite by two ways, PostgreSQL, and memory."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.postgres import Cluster

from mlenv.core.audit import Author
from mlenv.core.digest import Digest
from mlenv.core.environment import Definition, Environment, View
from mlenv.core.facts import BaseFacts, Interpreter
from mlenv.core.image import Descriptor
from mlenv.core.layer import Compression, Layer
from mlenv.core.platform import Glibc, Platform
from mlenv.core.records import BuildRecord, BuildStatus, ImageKey, TimedStep, UseRecord
from mlenv.core.reference import EnvironmentName, LabelName, VersionName
from mlenv.core.refusals import (
    ComputedLabel,
    EnvironmentArchived,
    EnvironmentNotFound,
    VersionChanged,
    VersionConflict,
    VersionNotFound,
)
from mlenv.core.spec import Origin, Requirement, Spec
from mlenv.service.interface import Registry
from mlenv.store.database import Database
from mlenv.store.memory import MemoryRegistry
from mlenv.store.opening import open_sqlite
from mlenv.store.server_opening import open_database
from mlenv.store.sql import SqlRegistry

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
IRIS = EnvironmentName("iris")
ONE, TWO, THREE = VersionName("1"), VersionName("2"), VersionName("3")
PRODUCTION = LabelName("production")
LINUX = Platform("linux", "amd64")
AUTHOR = Author("1", "ada")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "mlenv.db"
    open_sqlite(path).close()
    return path


@pytest.fixture(params=["sqlite", "server", "postgresql", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, empty_store: Path) -> Iterator[Registry]:
    """As embedded stores have it: over SQLite's driver. As servers have it, with an audit: by the two other ways."""
    if request.param == "memory":
        yield MemoryRegistry()
        return
    path = tmp_path / "mlenv.db"
    database: Database
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgres_cluster")
        database = open_database(cluster.migrated_database(), tmp_path)
    else:
        shutil.copy(empty_store, path)
        database = open_sqlite(path) if request.param == "sqlite" else open_database(None, tmp_path)
    if request.param == "sqlite":
        yield SqlRegistry(database)
    else:
        yield SqlRegistry(database, "default", author=AUTHOR, audited=True)
    database.close()


def definition(
    image: str,
    *,
    name: str = "iris",
    version: str | None = None,
    description: str | None = None,
    tags: dict[str, str] | None = None,
) -> Definition:
    chosen = VersionName(version) if version else None
    return Definition(EnvironmentName(name), Spec(image=image), chosen, description, tags or {})


def add(registry: Registry, *images: str, name: str = "iris") -> None:
    for image in images:
        registry.add_version(definition(image, name=name), now=NOW)


def digest(text: str) -> Digest:
    return Digest.of(text.encode())


def test_first_version_is_one(registry: Registry) -> None:
    made, new = registry.add_version(definition("a", description="first", tags={"team": "x"}), now=NOW)
    assert (made.version, new) == (ONE, True)
    assert made.created_at == made.modified_at == NOW
    assert registry.version(IRIS, ONE) == made
    environment = registry.environment(IRIS)
    assert (environment.latest_version, environment.next_version, environment.archived) == (ONE, TWO, False)


def test_equal_content_is_the_latest_version_again(registry: Registry) -> None:
    add(registry, "a", "b")
    again, new = registry.add_version(definition("b"), now=LATER)
    assert (again.version, new, again.modified_at) == (TWO, False, NOW)
    older, new = registry.add_version(definition("a"), now=LATER)
    assert (older.version, new) == (THREE, True)


def test_equal_content_is_what_counts_and_not_where_it_was_written(registry: Registry) -> None:
    specs = [Spec(image="a", requirements=(Requirement("numpy", Origin("r.txt", line)),)) for line in (1, 2)]
    registry.add_version(Definition(IRIS, specs[0]), now=NOW)
    again, new = registry.add_version(Definition(IRIS, specs[1]), now=NOW)
    assert not new
    assert again.spec.requirements is not None
    assert again.spec.requirements[0].origin == Origin("r.txt", 1)
    other, _ = registry.add_version(Definition(EnvironmentName("other"), specs[1]), now=NOW)
    found = registry.version(other.name, other.version)
    assert found.spec.requirements is not None
    assert found.spec.requirements[0].origin == Origin("r.txt", 2)


def test_automatic_versions_step_over_what_is_taken(registry: Registry) -> None:
    for version in ("7", "1.2", "007", "release"):
        registry.add_version(definition(f"image-{version}", version=version), now=NOW)
    made, _ = registry.add_version(definition("new"), now=NOW)
    assert made.version == "8"
    environment = registry.environment(IRIS)
    assert (environment.latest_version, environment.next_version) == ("8", "9")


def test_other_content_under_a_version_is_a_conflict(registry: Registry) -> None:
    add(registry, "a")
    with pytest.raises(VersionConflict, match="already registered") as caught:
        registry.add_version(definition("b", version="1"), now=LATER)
    assert (caught.value.stored.image, caught.value.given.image) == ("a", "b")
    assert caught.value.difference == ["image:", "  - a", "  + b"]
    assert registry.version(IRIS, ONE).spec.image == "a"
    assert registry.environment(IRIS).modified_at == NOW


def test_equal_content_under_a_version_takes_over_description_and_tags(registry: Registry) -> None:
    registry.add_version(definition("a", version="1", description="old", tags={"k": "1"}), now=NOW)
    same, new = registry.add_version(definition("a", version="1"), now=LATER)
    assert (new, same.description, same.tags, same.modified_at) == (False, "old", {"k": "1"}, NOW)
    changed, new = registry.add_version(definition("a", version="1", description="new", tags={"j": "2"}), now=LATER)
    assert (new, changed.description, changed.tags, changed.modified_at) == (False, "new", {"j": "2"}, LATER)
    assert registry.version(IRIS, ONE) == changed


def test_missing_environment_names_near_ones(registry: Registry) -> None:
    add(registry, "a", name="sklearn-training")
    add(registry, "a", name="other")
    with pytest.raises(EnvironmentNotFound) as caught:
        registry.environment(EnvironmentName("sklearn_training"))
    assert caught.value.near == ("sklearn-training",)
    assert caught.value.hint == "did you mean 'sklearn-training'?"
    with pytest.raises(EnvironmentNotFound):
        registry.version(IRIS, ONE)
    with pytest.raises(EnvironmentNotFound):
        registry.versions(IRIS, View.ALL, limit=5)


def test_missing_version_tells_the_newest(registry: Registry) -> None:
    add(registry, *"abcdefg")
    with pytest.raises(VersionNotFound) as caught:
        registry.version(IRIS, VersionName("9"))
    assert caught.value.versions == ("7", "6", "5", "4", "3")


def test_lists_are_paged(registry: Registry) -> None:
    for name in ("c", "a", "B", "d"):
        add(registry, "x", "y", "z", name=name)
    first = registry.environments(View.ALL, limit=3)
    assert [each.name for each in first] == ["B", "a", "c"]
    rest = registry.environments(View.ALL, limit=3, after=first[-1].name)
    assert [each.name for each in rest] == ["d"]
    newest = registry.versions(EnvironmentName("a"), View.ALL, limit=2)
    assert [each.version for each in newest] == ["3", "2"]
    oldest = registry.versions(EnvironmentName("a"), View.ALL, limit=2, after=newest[-1].version)
    assert [each.version for each in oldest] == ["1"]
    with pytest.raises(VersionNotFound):
        registry.versions(EnvironmentName("a"), View.ALL, limit=2, after="9")


def test_newest_is_what_was_made_last_whatever_the_clock_says(registry: Registry) -> None:
    for number, version in enumerate(("10", "9", "1")):
        made = definition(version, version=version)
        registry.add_version(made, now=NOW - timedelta(days=number))
    assert [each.version for each in registry.versions(IRIS, View.ALL, limit=9)] == ["1", "9", "10"]
    assert registry.environment(IRIS).latest_version == "1"


def test_archived_version_is_hidden_and_usable(registry: Registry) -> None:
    add(registry, "a", "b")
    registry.update_version(IRIS, ONE, now=LATER, description=None, tags={}, archived=True)
    assert [each.version for each in registry.versions(IRIS, View.ACTIVE, limit=9)] == ["2"]
    assert [each.version for each in registry.versions(IRIS, View.ARCHIVED, limit=9)] == ["1"]
    assert registry.version(IRIS, ONE).archived
    restored, new = registry.add_version(definition("a", version="1"), now=LATER)
    assert (restored.archived, new) == (False, False)
    assert len(registry.versions(IRIS, View.ACTIVE, limit=9)) == 2


def test_archived_environment_archives_all_its_versions(registry: Registry) -> None:
    add(registry, "a", "b")
    add(registry, "a", name="other")
    registry.update_version(IRIS, ONE, now=NOW, description=None, tags={}, archived=True)
    archived = registry.set_archived(IRIS, True, now=LATER)
    assert (archived.archived, archived.modified_at) == (True, LATER)
    assert [each.name for each in registry.environments(View.ACTIVE, limit=9)] == ["other"]
    assert [each.name for each in registry.environments(View.ARCHIVED, limit=9)] == ["iris"]
    assert registry.versions(IRIS, View.ACTIVE, limit=9) == []
    assert [each.archived for each in registry.versions(IRIS, View.ARCHIVED, limit=9)] == [True, True]
    with pytest.raises(EnvironmentArchived):
        registry.update_version(IRIS, TWO, now=LATER, description=None, tags={}, archived=False)
    described = registry.update_version(IRIS, TWO, now=LATER, description="still here", tags={})
    assert described.archived
    assert not registry.set_archived(IRIS, False, now=LATER).archived
    assert [each.version for each in registry.versions(IRIS, View.ACTIVE, limit=9)] == ["2"]


def test_a_check_sees_the_environment_as_it_is_changed_and_may_stop_it(registry: Registry) -> None:
    add(registry, "a")
    registry.set_label(IRIS, PRODUCTION, ONE, now=NOW)
    seen = []

    def stop(environment: Environment) -> None:
        seen.append(environment)
        raise VersionChanged(IRIS, ONE)

    with pytest.raises(VersionChanged):
        registry.set_archived(IRIS, True, now=LATER, check=stop)
    assert seen == [registry.environment(IRIS)]
    assert not seen[0].archived
    assert seen[0].labels == {PRODUCTION: ONE}
    assert registry.set_archived(IRIS, True, now=LATER, check=seen.append).archived
    assert len(seen) == 2


@pytest.mark.parametrize("image", ["b", "c"], ids=["again", "new"])
def test_registering_under_an_archived_environment_restores_just_that(registry: Registry, image: str) -> None:
    add(registry, "a", "b")
    registry.set_archived(IRIS, True, now=NOW)
    made, new = registry.add_version(definition(image), now=LATER)
    assert (made.archived, new) == (False, image == "c")
    assert not registry.environment(IRIS).archived
    assert [each.spec.image for each in registry.versions(IRIS, View.ACTIVE, limit=9)] == [image]


def test_update_refuses_to_overwrite_a_later_change(registry: Registry) -> None:
    add(registry, "a")
    seen = registry.version(IRIS, ONE).modified_at
    changed = registry.update_version(
        IRIS, ONE, now=NOW, description="mine", tags={}, archived=None, unless_modified_after=seen
    )
    assert changed.modified_at > seen
    with pytest.raises(VersionChanged):
        registry.update_version(IRIS, ONE, now=NOW, description="theirs", tags={}, unless_modified_after=seen)
    assert registry.version(IRIS, ONE).description == "mine"
    with pytest.raises(VersionNotFound):
        registry.update_version(IRIS, TWO, now=NOW, description=None, tags={})


def test_labels_move_and_keep_their_history(registry: Registry) -> None:
    add(registry, "a", "b")
    registry.set_label(IRIS, PRODUCTION, ONE, now=NOW)
    registry.set_label(IRIS, PRODUCTION, ONE, now=LATER)
    registry.set_label(IRIS, PRODUCTION, TWO, now=LATER)
    registry.set_label(IRIS, LabelName("canary"), ONE, now=LATER)
    assert registry.environment(IRIS).labels == {"canary": ONE, "production": TWO}
    assert registry.environments(View.ALL, limit=1)[0].labels == {"canary": ONE, "production": TWO}
    history = registry.label_history(IRIS, PRODUCTION)
    assert [(each.version, each.at) for each in history] == [(TWO, LATER), (ONE, NOW)]
    assert registry.label_history(IRIS, LabelName("none")) == []
    with pytest.raises(VersionNotFound):
        registry.set_label(IRIS, PRODUCTION, VersionName("9"), now=LATER)
    with pytest.raises(ComputedLabel):
        registry.set_label(IRIS, LabelName("latest"), ONE, now=LATER)


def test_first_lock_stays(registry: Registry) -> None:
    add(registry, "a")
    assert registry.lock_of(IRIS, ONE, LINUX) is None
    assert registry.add_lock(IRIS, ONE, LINUX, digest("lock"), now=NOW) == digest("lock")
    assert registry.add_lock(IRIS, ONE, LINUX, digest("other"), now=NOW) == digest("lock")
    assert registry.lock_of(IRIS, ONE, LINUX) == digest("lock")
    assert registry.lock_of(IRIS, ONE, Platform("linux", "arm64")) is None
    with pytest.raises(VersionNotFound):
        registry.add_lock(IRIS, TWO, LINUX, digest("lock"), now=NOW)


def test_first_layer_and_image_stay(registry: Registry) -> None:
    layer = Layer(digest("blob"), digest("tar"), 12, Compression.ZSTD.media_type)
    registry.add_layer(digest("key"), layer)
    registry.add_layer(digest("key"), replace(layer, size=13))
    assert registry.layer(digest("key")) == layer
    assert registry.layer(digest("nothing")) is None
    registry.remove_layer(digest("nothing"))
    registry.add_layer(digest("other"), layer)
    registry.remove_layer(digest("other"))
    assert [key for key, _ in registry.all_layers()] == [digest("key")]
    key = ImageKey(digest("lock"), digest("base"), digest("spec"), Compression.GZIP)
    manifest = Descriptor("application/x", digest("manifest"), 3, {"a": "b"}, {"os": "linux", "architecture": "amd64"})
    assert registry.image_of(key) is None
    registry.add_image(key, manifest, now=NOW)
    registry.add_image(key, replace(manifest, size=4), now=NOW)
    assert registry.image_of(key) == manifest
    assert registry.image_of(replace(key, compression=Compression.ZSTD)) is None


def test_bases_and_what_was_read_from_them(registry: Registry) -> None:
    registry.set_base("b", digest("1"), now=NOW)
    registry.set_base("a", digest("2"), now=NOW)
    registry.set_base("b", digest("3"), now=LATER)
    assert list(registry.bases().items()) == [("a", digest("2")), ("b", digest("3"))]
    assert (registry.base("b"), registry.base("c")) == (digest("3"), None)
    python = Interpreter("/usr/bin/python3.11", "3.11.2", "/usr")
    facts = BaseFacts(
        digest("1"), LINUX, "debian", "12", "Debian 12", Glibc(2, 36), (python,), "12.4", layers=3, size=9
    )
    registry.add_facts(facts)
    registry.add_facts(replace(facts, size=10))
    assert registry.facts(digest("1")) == facts
    assert registry.facts(digest("2")) is None
    bare = BaseFacts(digest("2"), LINUX)
    registry.add_facts(bare)
    assert registry.facts(digest("2")) == bare


def test_builds_are_replaced_by_id_and_newest_first(registry: Registry) -> None:
    add(registry, "a")
    first = BuildRecord("1", IRIS, ONE, LINUX, BuildStatus.RUNNING, NOW)
    second = replace(first, id="2", started_at=LATER)
    for build in (first, second):
        registry.save_build(build)
    done = replace(
        first,
        status=BuildStatus.SUCCEEDED,
        ended_at=LATER,
        image=digest("image"),
        steps=(TimedStep("lock", 0.25, "12 from cache"), TimedStep("layers", 2.0)),
        queued_at=NOW,
        compression=Compression.GZIP,
        options={"index": ["https://example.org/simple"], "force": True},
        priority=2,
        requested_by="ada",
        attempts=3,
        log=digest("log"),
    )
    registry.save_build(done)
    assert registry.builds(IRIS, ONE) == [second, done]
    assert registry.builds(IRIS, TWO) == []
    with pytest.raises(VersionNotFound):
        registry.save_build(replace(first, version=TWO))


def test_uses_are_replaced_by_id_and_newest_first(registry: Registry) -> None:
    add(registry, "a", "b")
    first = UseRecord("1", IRIS, ONE, "run", "local", digest("lock"), ("python", "x y.py"), "me", "here", NOW)
    second = replace(first, id="2", version=TWO, started_at=LATER, image=digest("image"))
    for use in (first, second):
        registry.save_use(use)
    done = replace(first, exit_code=3, ended_at=LATER)
    registry.save_use(done)
    assert registry.uses(IRIS, limit=9) == [second, done]
    assert registry.uses(IRIS, limit=1) == [second]
    assert registry.uses(IRIS, ONE, limit=9) == [done]
    with pytest.raises(EnvironmentNotFound):
        registry.save_use(replace(first, name=EnvironmentName("other")))


def test_everything_that_names_bytes_is_walked(registry: Registry) -> None:
    add(registry, *(str(number) for number in range(3)))
    for version in (ONE, TWO, THREE):
        for platform in (LINUX, Platform("linux", "arm64")):
            registry.add_lock(IRIS, version, platform, digest(f"{version}-{platform}"), now=NOW)
    layer = Layer(digest("blob"), digest("tar"), 12, Compression.ZSTD.media_type)
    key = ImageKey(digest("lock"), digest("base"), digest("spec"), Compression.GZIP)
    manifest = Descriptor("application/x", digest("manifest"), 3)
    registry.add_layer(digest("key"), layer)
    registry.add_image(key, manifest, now=NOW)
    assert len(list(registry.all_locks())) == 6
    assert (IRIS, TWO, LINUX, digest("2-linux/amd64")) in list(registry.all_locks())
    assert list(registry.all_images()) == [(key, manifest)]
    assert list(registry.all_layers()) == [(digest("key"), layer)]
    assert registry.check() == []
