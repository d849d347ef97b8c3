"""
What happens in a job's own process: its environment is made, its code put in place, its command run.

What it has to say goes to stdout, which is the job's log; what the worker must know goes out as reports.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final, Literal, Protocol

from msgspec.structs import replace

from mlenv.core.digest import Digest
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.jobs import Job, expand
from mlenv.core.progress import Step
from mlenv.core.records import UseRecord
from mlenv.core.redact import redact
from mlenv.core.reference import Reference
from mlenv.errors import InvalidInput
from mlenv.run.activation import variables_in
from mlenv.run.process import Ended, run_command
from mlenv.run.pythons import Pythons
from mlenv.service.environments import Environments
from mlenv.service.interface import Clock, Registry
from mlenv.service.running import OnlyAnImage, Running

#: Of the worker's own variables, what a job sees. Others may hold secrets of the server.
_INHERITED: Final = (
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
)
#: Where a job's shell looks for commands that its environment doesn't have.
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


class UnsafePath(InvalidInput):
    """A file of a code asset that would be written to outside of its directory, or in place of another."""

    def __init__(self, path: str) -> None:
        super().__init__(f"a file of the code can't be put at {path[:200]!r}")
        self.path = path


class Namespace(Protocol):
    """The use cases of the namespace that a job's environment is in."""

    @property
    def environments(self) -> Environments: ...
    @property
    def registry(self) -> Registry: ...
    @property
    def running(self) -> Running: ...
    @property
    def pythons(self) -> Pythons: ...


class _Talk:
    """Progress as lines of a log."""

    @contextmanager
    def step(
        self, title: str, *, total: int | None = None, unit: Literal["bytes", "items"] = "items"
    ) -> Iterator[Step]:
        step, begun = _TalkStep(), time.monotonic()
        say(f"{title} …")
        yield step
        say(f"{title}: {step.text + ', ' if step.text else ''}{time.monotonic() - begun:.1f} s")

    def warn(self, text: str) -> None:
        say(f"warning: {text}")

    def line(self, text: str) -> None:
        say(text)


class _TalkStep:
    text = ""

    def advance(self, amount: int) -> None:
        pass

    def note(self, text: str) -> None:
        self.text = text


def run_job(
    job: Job,
    namespace: Namespace,
    *,
    directory: Path,
    code: Iterable[tuple[str, Path]],
    begin: Callable[[], None],
    clock: Clock,
    new_id: Callable[[], str],
) -> Ended:
    """
    Run a job's command to its end, in the environment that it names.

    Args:
        namespace: Where its environment is.
        directory: The job's own, empty.
        code: Files of its code: where each is to be, relative, and where its bytes are.
        begin: Called right before the command is run. It raises what it likes if it is not to be run after all.

    Raises:
        UnsafePath: The code can't be put in place.
        CommandNotFound: There is no shell.
        And what `Running.local` raises.
    """
    talk = _Talk()
    version = namespace.environments.version(replace(Reference.parse(job.request.environment), registry=None))
    say(f"job {job.name}: environment {job.request.environment}")
    place = _Place(directory)
    place_code(place.code, code)
    place.make()
    outputs = {name: str(place.output(name)) for name in job.request.outputs}
    command = expand(job.request.command, job.request.inputs, outputs)
    shell = ("/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh", "-c", command)
    variables, lock = _environment(version, job, namespace, place.variables(job), talk)
    use = None
    if lock is not None:
        use = UseRecord(
            id=new_id(),
            name=version.name,
            version=version.version,
            kind="job",
            engine="local",
            lock=lock,
            command=tuple(map(redact, shell)),
            user=job.request.requested_by,
            host=os.uname().nodename,
            started_at=clock(),
        )
        namespace.registry.save_use(use)
    begin()
    say(f"running: {redact(job.request.command)}")
    ended = run_command(shell, environment=variables, directory=place.code)
    if use is not None:
        namespace.registry.save_use(replace(use, exit_code=ended.exit_code, ended_at=clock()))
    return ended


def _environment(
    version: EnvironmentVersion, job: Job, namespace: Namespace, base: Mapping[str, str], talk: _Talk
) -> tuple[dict[str, str], Digest | None]:
    """The variables under which a command runs in the environment, which is made here if need be; and its lock."""
    own = (*version.spec.environment_variables, *job.request.variables.items())
    try:
        here = namespace.running.local(version, progress=talk)
    except OnlyAnImage:
        python = namespace.pythons.choose()
        talk.warn(
            f"{version} is an image without packages of its own ({version.spec.image}), and jobs run without containers"
            f" here: the command runs beside Python {python.version} of the server, outside of that image"
        )
        return {**base, "PATH": os.pathsep.join([str(python.path.parent), _PATH]), **dict(own)}, None
    return variables_in(here.prefix.path, base, own, conda=bool(here.lock.conda)), here.lock.digest


class _Place:
    """The directories of a job."""

    def __init__(self, root: Path) -> None:
        self.root, self.code, self.outputs = root, root / "code", root / "outputs"

    def make(self) -> None:
        for path in (self.code, self.outputs, self.root / "home", self.root / "tmp"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Programs that write to `outputs` beside themselves, as they do on Azure, find it there.
        with suppress(FileExistsError):
            (self.code / "outputs").symlink_to(self.outputs)

    def output(self, name: str) -> Path:
        path = self.outputs / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def variables(self, job: Job) -> dict[str, str]:
        """The variables that every job has, beside its own."""
        return {
            **{name: value for name in _INHERITED if (value := os.environ.get(name)) is not None},
            "PATH": _PATH,
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "MLENV_JOB": job.name,
            "AZUREML_RUN_ID": job.name,
            "AZUREML_EXPERIMENT_NAME": job.request.experiment,
            **{f"AZURE_ML_OUTPUT_{name}": str(self.outputs / name) for name in job.request.outputs},
        }


def place_code(directory: Path, files: Iterable[tuple[str, Path]]) -> None:
    """
    Copy files into a directory of the job's own.

    Args:
        files: Where each is to be, relative to `directory`, with `/`; and where its bytes are.

    Raises:
        UnsafePath: One would be outside of it, or in place of another.
    """
    for name, source in files:
        parts = PurePosixPath(name).parts
        if (
            not parts
            or name.startswith("/")
            or "\0" in name
            or "\\" in name
            or any(part in {"..", "."} for part in parts)
        ):
            raise UnsafePath(name)
        path = directory.joinpath(*parts)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with source.open("rb") as reading, path.open("xb") as writing:
                shutil.copyfileobj(reading, writing, 1 << 20)
        except (FileExistsError, NotADirectoryError, IsADirectoryError, ValueError) as error:
            raise UnsafePath(name) from error
        # Bits are not kept on the way; scripts say in their first line what runs them.
        path.chmod(0o700)


def say(text: str) -> None:
    """A line of the log."""
    sys.stdout.write(f"mlenv: {redact(text)}\n")
    sys.stdout.flush()
