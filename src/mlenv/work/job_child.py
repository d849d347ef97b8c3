"""
One job, in a process of its own: `python -m mlenv.child job`.

What is to be run comes as JSON on stdin. What becomes of it goes, one JSON object a line, to the file descriptor that
`MLENV_REPORTS` names; what is written to stdout, by this and by the job's command, is the job's log.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from msgspec import Struct
from msgspec.structs import asdict

from mlenv.core.assets import AssetKind
from mlenv.core.audit import Author
from mlenv.core.disk_faults import disk_fault
from mlenv.core.files import lasting_container, upload_at
from mlenv.core.jobs import Job, JobEnded, JobStatus
from mlenv.core.redact import redact
from mlenv.core.scope import Scope, ScopeKey
from mlenv.core.site_policy import SitePolicy
from mlenv.errors import InvalidInput, MlenvError, NotFound
from mlenv.run.process import Ended
from mlenv.service.files import FILE_LIMIT, Files, Receiving
from mlenv.work.child import AUTHOR_ID, DATABASE, advice, leaves, summary, to_policy
from mlenv.work.job_run import run_job, say

if TYPE_CHECKING:
    from mlenv.work.hosting import Hosting, WorkServices


#: Most files of a job that are kept.
OUTPUTS_LIMIT: Final = 10_000


class NoCode(InvalidInput):
    """A code asset whose files are not on this server."""

    hint = "upload the code: give a directory as `code`"

    def __init__(self, uri: str) -> None:
        super().__init__(f"the code is not on this server: {redact(uri)[:300]}")
        self.uri = uri


class JobOrder(Struct, frozen=True):
    """
    What is to be run. All of it is plain text.

    Attributes:
        home: The store's directory.
        scope: The workspace of the job.
        name: The job.
        directory: The job's own, which is empty.
        policy: The site's.
    """

    home: str
    scope: str
    name: str
    directory: str
    policy: dict[str, Any]

    def to_json(self) -> bytes:
        """As it is sent."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """What `to_json` gave."""
        return cls(**json.loads(data))


def author_of(job: str) -> Author:
    """Who writes down what becomes of a job."""
    return Author(AUTHOR_ID, f"job {job}")


def main(open_hosted: "Callable[[Path, str | None, SitePolicy], AbstractContextManager[Hosting]]") -> int:
    """Run what stdin says. Returns the exit code: 0 whenever the end was reported."""
    order = JobOrder.parse(sys.stdin.buffer.read())
    descriptor = int(os.environ.pop("MLENV_REPORTS"))
    # The command is not to report in our place.
    os.set_inheritable(descriptor, False)
    with os.fdopen(descriptor, "wb", buffering=0) as file:

        def report(facts: Any) -> None:
            file.write(json.dumps(facts).encode() + b"\n")

        try:
            with open_hosted(Path(order.home), os.environ.pop(DATABASE, None), to_policy(order.policy)) as hosted:
                ended = _run(order, hosted, report)
        except MlenvError as error:
            _tell(error)
            report({"error": redact(summary(error))})
        except OSError as error:
            if (fault := disk_fault(error)) is None:
                raise
            _tell(fault)
            report({"error": summary(fault)})
        except ExceptionGroup as group:
            faults = [disk_fault(each) or each for each in leaves(group)]
            if not all(isinstance(each, MlenvError) for each in faults):
                raise
            for each in faults:
                _tell(each)
            report({"error": redact("; ".join(map(summary, faults)))})
        else:
            report({"exit_code": ended.exit_code, "signal": ended.signal})
    return 0


def _run(order: JobOrder, hosted: "Hosting", report: Callable[[Any], None]) -> Ended:
    scope = _scope(hosted, order.scope)
    author = author_of(order.name)
    services = hosted.services(scope, author)
    job = services.jobs.get(order.name)
    namespace = services
    if job.request.namespace != order.scope:
        namespace = hosted.services(_scope(hosted, job.request.namespace), author)

    def begin() -> None:
        # NOTE: written down before the command begins, so that nobody begins it again, and nobody a canceled one.
        if services.jobs.advance(job, JobStatus.RUNNING) is None:
            raise JobEnded(job.name, services.jobs.get(job.name).status)
        report({"status": JobStatus.RUNNING.value})

    ended = run_job(
        job,
        namespace,
        directory=Path(order.directory),
        code=_code(job, services),
        begin=begin,
        clock=lambda: datetime.now(UTC),
        new_id=lambda: os.urandom(16).hex(),
    )
    report({"status": JobStatus.FINALIZING.value})
    keep_outputs(job.name, Path(order.directory) / "outputs", services.files, lasting_container(scope.id))
    return ended


def keep_outputs(name: str, directory: Path, files: Files, container: str) -> None:
    """Keep what a job left in its outputs as files: `ExperimentRun/dcid.NAME/outputs/…`, as Azure has it."""
    kept = 0
    # NOTE: links are not followed: they may lead anywhere.
    for parent, _, names in os.walk(directory):
        for each in sorted(names):
            path = Path(parent, each)
            if path.is_symlink() or not path.is_file():
                continue
            if kept == OUTPUTS_LIMIT:
                say(f"warning: there are more than {OUTPUTS_LIMIT} outputs; the others are not kept")
                return
            target = f"ExperimentRun/dcid.{name}/outputs/{path.relative_to(directory).as_posix()}"
            try:
                _keep(path, target, files, container)
            except (MlenvError, OSError) as error:
                say(f"warning: output {target!r} is not kept: {error}")
            else:
                kept += 1
    if kept:
        say(f"kept {kept} outputs")


def _keep(path: Path, target: str, files: Files, container: str) -> None:
    with path.open("rb") as file, files.writer() as writer:
        receiving = Receiving(writer, target, FILE_LIMIT)
        while chunk := file.read(1 << 20):
            receiving.write(chunk)
        files.put(container, target, receiving.finish(), {}, replace=True)


def _code(job: Job, services: "WorkServices") -> Iterator[tuple[str, Path]]:
    """The files of a job's code: where each is to be, relative, and where its bytes are."""
    if job.request.code is None:
        return
    asset = services.assets.get(AssetKind.CODE, *job.request.code)
    uri = str(asset.document.get("codeUri", ""))
    container, directory = code_place(uri)
    file = None
    for file in services.files.tree(container, directory):
        yield file.path.removeprefix(directory), services.files.content(file)
    if file is None:
        raise NoCode(uri)


def code_place(uri: str) -> tuple[str, str]:
    """
    Container and directory of a code asset: `https://HOST/blobs/CONTAINER/DIRECTORY/`.

    Raises:
        NoCode: It is elsewhere.
    """
    place = upload_at(uri)
    if place is None or not place[1].strip("/"):
        raise NoCode(uri)
    return place[0], place[1].strip("/") + "/"


def _scope(hosted: "Hosting", key: str) -> Scope:
    found = hosted.site.store.scope(ScopeKey(key))
    if found is None:
        raise NotFound(f"there is no {key} any more")
    return found


def _tell(error: BaseException) -> None:
    for text in advice(error):
        say(text)
