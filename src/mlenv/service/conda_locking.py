"""A conda file that needs conda becomes packages of a lock: conda's, and pip's on top of them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from mlenv.build.interface import Blobs
from mlenv.core.conda_package import CondaPackage
from mlenv.core.conda_tree import CondaScheme
from mlenv.core.locking import LockOptions
from mlenv.core.platform import GLIBC_FLOOR, Platform, Target
from mlenv.core.progress import Progress
from mlenv.core.python_version import is_bare
from mlenv.core.spec import Requirement, Spec
from mlenv.errors import InvalidInput
from mlenv.resolve.conda_pip import may_provide, provided_distributions, resolve_on_top
from mlenv.resolve.conda_request import CondaRequest, request_of
from mlenv.resolve.interface import CondaSolver, Resolution, Resolver, ResolveRequest
from mlenv.service.artifacts import Artifacts

if TYPE_CHECKING:
    from mlenv.core.site_policy import SitePolicy
    from mlenv.service.bases import Base


class NoPlaceForWheels(InvalidInput):
    """pip's requirements on top of a Python that has no place for them, or is none that wheels are chosen for."""

    hint = "ask conda for CPython (`python=3.12=*_cpython`), or for these packages too, instead of pip"

    def __init__(self, python: CondaPackage | None) -> None:
        which = f"conda gives {python.stem}" if python else "conda gives no Python"
        super().__init__(f"the `pip:` section can't be installed: {which}")
        self.python = python


class CondaLocking:
    """Solves conda files, and has pip's requirements resolved on top."""

    def __init__(
        self,
        solver: Callable[[], CondaSolver],
        resolver: Callable[[], Resolver],
        artifacts: Artifacts,
        blobs: Blobs,
        policy: "SitePolicy | None" = None,
    ) -> None:
        """
        Args:
            policy: What is done here for others; None for whoever uses the store by themselves.
        """
        self._solver, self._resolver = solver, resolver
        self._artifacts, self._blobs = artifacts, blobs
        self._policy = policy

    @property
    def name(self) -> str:
        """What solves, as locks say it."""
        return self._solver().name

    def solve(
        self, spec: Spec, platform: Platform, base: "Base | None", options: LockOptions, *, progress: Progress
    ) -> tuple[tuple[CondaPackage, ...], Target]:
        """
        Conda's packages for a spec, and the target with the Python that is among them; without one, that has none.

        Args:
            base: What the environment will stand on, if that is at hand: its glibc counts, and its CUDA, where the spec
                names none.

        Raises:
            AddressNotListed: A channel that the site's policy does not allow.
            And what `CondaSolver.solve` raises.
        """
        request = conda_request(spec, platform, base, options)
        if self._policy is not None:
            solver = self._solver()
            self._policy.check_channels(solver.channels(request), solver.own_channels())
        packages = self._solver().solve(request, progress=progress)
        python = next((each.version for each in packages if each.name == "python"), "")
        return packages, replace(request.target, python=python)

    def on_top(
        self,
        packages: tuple[CondaPackage, ...],
        spec: Spec,
        request: ResolveRequest,
        *,
        workdir: Path,
        progress: Progress,
    ) -> Resolution:
        """
        Resolve pip's requirements with what conda provides, for which those of its packages are brought that may have
        Python distributions.

        Raises:
            NoPlaceForWheels: There is no CPython to install them for.
            CondaClash: They need another version of what conda provides.
            And what `Artifacts.ensure` and `Resolver.resolve` raise.
        """
        scheme = CondaScheme.of(packages, "/")
        if scheme.site_packages != f"lib/python{scheme.python}/site-packages":
            raise NoPlaceForWheels(next((each for each in packages if each.name == "python"), None))
        assert spec.conda is not None
        wanted = [each for each in packages if may_provide(each)]
        self._artifacts.ensure(wanted, spec.sources, progress=progress)
        with self._artifacts.refusing(wanted), progress.step("Reading what conda provides to pip") as step:
            found = provided_distributions(wanted, lambda each: self._blobs.path(each.artifact.digest).open("rb"))
            step.note(f"{len(found)} distributions")
        return resolve_on_top(
            self._resolver(), request, packages, found, _specs(spec), workdir=workdir, progress=progress
        )


def conda_request(spec: Spec, platform: Platform, base: "Base | None", options: LockOptions) -> CondaRequest:
    """What a spec asks of conda, for a platform and a base image, if that is at hand."""
    assert spec.conda is not None
    glibc = base.facts.glibc if base is not None and base.facts.glibc is not None else GLIBC_FLOOR
    cuda = spec.cuda or (base.facts.cuda if base is not None else None)
    target = Target(platform, "", glibc if platform.os == "linux" else None)
    return replace(request_of(spec.conda, target, cuda=cuda, as_of=options.as_of), specs=_specs(spec))


def _specs(spec: Spec) -> tuple[Requirement, ...]:
    """The conda file's lines; of Python, what the spec itself says instead."""
    from mlenv.core.match_spec import match_specs

    assert spec.conda is not None
    lines = match_specs(spec.conda)
    if spec.python is None or spec.python == spec.conda.python:
        return lines
    others = (each for each in lines if not re.match(r"(?:.*::)?python(?![\w.-])", each.text, re.IGNORECASE))
    return (Requirement(f"python{'=' * is_bare(spec.python)}{spec.python}"), *others)
