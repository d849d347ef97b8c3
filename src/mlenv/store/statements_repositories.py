"""The statements over repositories of images, as `mlenv.store.statements` has the others. Only servers make them."""

from typing import Final

from sqlalchemy import Executable, and_, bindparam, delete, func, insert, or_, select, update

from mlenv.store import tables
from mlenv.store.statements import is_parameter

_REPOSITORY: Final = ("workspace", "repository")
_BLOB: Final = (*_REPOSITORY, "digest")
_TAG: Final = (*_REPOSITORY, "tag")


def _blobs() -> dict[str, Executable]:
    table = tables.repository_blobs
    return {
        "repository_blob": select(table.c.size).where(is_parameter(table, *_BLOB)),
        # Whoever has read it is sure of it until the transaction ends: it can't be collected meanwhile.
        "repository_blob_held": select(table.c.size).where(is_parameter(table, *_BLOB)).with_for_update(),
        "repository_blob_anywhere": select(table.c.workspace).where(is_parameter(table, "digest")).distinct(),
        "insert_repository_blob": insert(table).values({each.name: bindparam(each.name) for each in table.columns}),
        "delete_repository_blob": delete(table).where(is_parameter(table, *_BLOB)),
        "any_repository_blob": select(table.c.digest).where(is_parameter(table, *_REPOSITORY)).limit(1),
    }


def _manifests() -> dict[str, Executable]:
    table = tables.manifests
    referrers = (
        select(table)
        .where(is_parameter(table, *_REPOSITORY, "subject"), table.c.digest > bindparam("after"))
        .order_by(table.c.digest)
        .limit(bindparam("limit"))
    )
    return {
        "manifest": select(table).where(is_parameter(table, *_BLOB)),
        "insert_manifest": insert(table).values({each.name: bindparam(each.name) for each in table.columns}),
        "delete_manifest": delete(table).where(is_parameter(table, *_BLOB)),
        "any_manifest": select(table.c.digest).where(is_parameter(table, *_REPOSITORY)).limit(1),
        "manifests_of": select(table)
        .where(is_parameter(table, *_REPOSITORY), table.c.digest > bindparam("after"))
        .order_by(table.c.digest)
        .limit(bindparam("limit")),
        "referrers": referrers,
        "referrers_of_type": referrers.where(is_parameter(table, "artifact_type")),
        # The next name in the index: a list of names costs as much as it has names, however many manifests they have.
        "next_repository": select(func.min(table.c.repository).label("repository")).where(
            is_parameter(table, "workspace"), table.c.repository > bindparam("after")
        ),
    }


def _tags() -> dict[str, Executable]:
    table = tables.repository_tags
    which = and_(*(table.c[column] == bindparam(f"the_{column}") for column in _TAG))
    later = or_(
        table.c.folded > bindparam("after_folded"),
        and_(table.c.folded == bindparam("after_folded"), table.c.tag > bindparam("after_tag")),
    )
    return {
        "repository_tag": select(table).where(is_parameter(table, *_TAG)),
        "repository_tag_to_change": select(table).where(is_parameter(table, *_TAG)).with_for_update(),
        "repository_tags": select(table.c.tag)
        .where(is_parameter(table, *_REPOSITORY), later)
        .order_by(table.c.folded, table.c.tag)
        .limit(bindparam("limit")),
        "tags_of_manifest": select(table.c.tag).where(is_parameter(table, *_BLOB)).order_by(table.c.tag),
        "insert_repository_tag": insert(table).values({each.name: bindparam(each.name) for each in table.columns}),
        "update_repository_tag": update(table)
        .where(which)
        .values(digest=bindparam("digest"), modified_at=bindparam("modified_at")),
        "delete_repository_tag": delete(table).where(is_parameter(table, *_TAG)),
        "delete_tags_of_manifest": delete(table).where(is_parameter(table, *_BLOB)),
    }


def _built() -> dict[str, Executable]:
    environments, versions, locks, images = tables.environments, tables.versions, tables.locks, tables.images
    of_version = and_(*(locks.c[column] == versions.c[column] for column in ("workspace", "name", "version")))
    of_lock = and_(
        images.c.workspace == locks.c.workspace,
        images.c.lock == locks.c.digest,
        images.c.spec == versions.c.spec_digest,
    )
    built = (
        select(versions.c.version, locks.c.platform, images.c.compression, images.c.descriptor)
        .select_from(versions.join(locks, of_version).join(images, of_lock))
        .where(is_parameter(versions, "workspace", "name"))
        # Of two images of one lock, which then stand on two bases, the newer one comes last.
        .order_by(versions.c.sequence, images.c.created_at)
    )
    return {
        "is_environment": select(environments.c.name).where(is_parameter(environments, "workspace", "name")),
        "count_environments": select(func.count().label("environments")).where(is_parameter(environments, "workspace")),
        "environment_names": select(environments.c.name)
        .where(is_parameter(environments, "workspace"))
        .order_by(environments.c.name),
        "built": built.where(is_parameter(versions, "version")),
        "all_built": built,
    }


STATEMENTS: Final[dict[str, Executable]] = {**_blobs(), **_manifests(), **_tags(), **_built()}
