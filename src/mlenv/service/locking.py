"""A version becomes a lock, once per platform."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv.core.conda_spec import to_pip_requirement
from mlenv.core.digest import Digest
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.lock import Lock, LockedPackage
from mlenv.core.locking import LockOptions
from mlenv.core.platform import GLIBC_FLOOR, Platform, Target
from mlenv.core.progress import Progress, quantity
from mlenv.core.pylock_select import select_pylock
from mlenv.core.python_version import choose, without_offer
from mlenv.core.spec import CondaFile, Requirement, Spec
from mlenv.errors import Conflict, InvalidInput, MlenvError, NotFound
from mlenv.faults import reach

if TYPE_CHECKING:
    # NOTE: finding a lock that is there should not wait for the imports of what makes one.
    from mlenv.build.interface import Blobs
    from mlenv.core.conda_package import CondaPackage
    from mlenv.core.site_policy import SitePolicy
    from mlenv.resolve.interface import Fetcher, Resolution, Resolver, ResolveRequest
    from mlenv.service.bases import Base, Bases
    from mlenv.service.conda_locking import CondaLocking
    from mlenv.service.context_builds import ContextBuilds
    from mlenv.service.interface import Clock, Exclusive, Registry


class NoPythonKnown(InvalidInput):
    """Nothing says which Python to lock for, or no Python is as the spec asks."""

    hint = 'ask for one with `python: "3.11"` in the environment file'


class LockDiffers(Conflict):
    """A lock is there already, made with other options than those asked for now."""

    hint = "a version is locked once: create a new version to lock it in another way"


class LockLost(NotFound):
    """A version is locked, and the store has lost its lock's bytes, or they are damaged."""

    hint = "see with `mlenv store verify` what else is damaged; restore the store from a copy, or create a new version"

    def __init__(self, version: EnvironmentVersion, platform: Platform, error: MlenvError) -> None:
        super().__init__(f"the lock of {version} for {platform} is lost or damaged: {error}")
        self.version, self.platform = version, platform


class DockerfileNotBuilt(InvalidInput):
    """A version that is defined by a Dockerfile, where none can be built."""

    hint = "define it by `image` and `conda_file` or `requirements`, or build it for linux"


DEFAULT_OPTIONS = LockOptions()


class Locking:
    """Makes locks, and finds those that were made."""

    def __init__(
        self,
        registry: "Registry",
        blobs: "Blobs",
        bases: "Callable[[], Bases]",
        resolver: "Callable[[], Resolver]",
        fetcher: "Callable[[], Fetcher]",
        *,
        host_pythons: Callable[[], Sequence[str]],
        host_platform: Platform,
        exclusive: "Exclusive",
        workdir: Callable[[], Path],
        clock: "Clock",
        policy: "SitePolicy | None" = None,
        own_index: Callable[[], str | None] = lambda: None,
        contexts: "Callable[[], ContextBuilds] | None" = None,
        conda: "Callable[[], CondaLocking] | None" = None,
    ) -> None:
        """
        Args:
            policy: What is done here for others; None for whoever uses the store by themselves.
            own_index: The address of the index that is taken where a spec names none.
            contexts: Locks Dockerfile contexts; None where that is done elsewhere.
            conda: Locks conda files that need conda; None where that is done elsewhere.
        """
        self._registry = registry
        self._blobs = blobs
        self._bases = bases
        self._resolver = resolver
        self._fetcher = fetcher
        self._host_pythons = host_pythons
        self._host_platform = host_platform
        self._exclusive = exclusive
        self._workdir = workdir
        self._clock = clock
        self._policy = policy
        self._own_index = own_index
        self._contexts = contexts
        self._conda = conda

    def find(self, version: EnvironmentVersion, platform: Platform) -> Lock | None:
        """The lock of a version for a platform, if one was made."""
        digest = self._registry.lock_of(version.name, version.version, platform)
        if digest is None:
            return None
        try:
            return self._read(digest)
        except (InvalidInput, NotFound) as error:
            raise LockLost(version, platform, error) from error

    def is_missing(self, version: EnvironmentVersion, platform: Platform) -> bool:
        """Whether no lock of a version was made for a platform yet."""
        return self._registry.lock_of(version.name, version.version, platform) is None

    def lock(
        self,
        version: EnvironmentVersion,
        platform: Platform,
        options: LockOptions | None = None,
        *,
        progress: Progress,
    ) -> Lock:
        """
        The lock of a version for a platform: the one that was made, or else one made now.

        Args:
            options: How to make it; None takes whatever lock there is.

        Raises:
            LockDiffers: A lock was made already, with other options than these.
            DockerfileNotBuilt, NoPythonKnown, NoPlaceForWheels: The spec can't be locked.
            SourceBuildsOff, AddressNotListed: It asks for what the site's policy does not allow.
            ResolutionFailed: Its requirements have no answer.
            Unavailable: An index did not answer.
        """
        found = self.find(version, platform)
        if found is None:
            with self._exclusive(f"lock-{version.name}-{version.version}-{platform}"):
                found = self.find(version, platform)
                if found is None:
                    return self._make(version, platform, options or DEFAULT_OPTIONS, progress)
        if options is not None:
            _check_same(version, found, options)
        return found

    def write(self, lock: Lock, path: Path) -> None:
        """
        Write a lock in the format that the file's name stands for (`conda_exports.lock_text`), with the wheels beside it
        that were built here and have no address.

        Raises:
            NotExportable: The format has no words for this lock. Nothing was written.
            NotFound: Such a wheel is not in the store any more.
            OSError: The files can't be written.
        """
        import shutil

        from mlenv.core.conda_exports import lock_text

        text = lock_text(lock, path.name)
        for package in lock.packages:
            if package.artifact.url is None:
                shutil.copyfile(self._blobs.path(package.artifact.digest), path.parent / package.artifact.filename)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, "utf-8")
        partial.replace(path)

    def _make(self, version: EnvironmentVersion, platform: Platform, options: LockOptions, progress: Progress) -> Lock:
        spec = version.spec
        if spec.build is not None:
            lock = self._lock_context(version, platform, options, progress)
        else:
            base = self._base_of(spec, platform, progress)
            lock = self._resolve(spec, platform, base, options, progress)
        data = lock.to_pylock().encode()
        self._blobs.put([data], digest=lock.digest, size=len(data), what="pylock.toml")
        reach("lock.written")
        kept = self._registry.add_lock(version.name, version.version, platform, lock.digest, now=self._clock())
        reach("lock.named")
        return lock if kept == lock.digest else self._read(kept)

    def _lock_context(
        self, version: EnvironmentVersion, platform: Platform, options: LockOptions, progress: Progress
    ) -> Lock:
        if self._contexts is None or platform.os != "linux":
            raise DockerfileNotBuilt(f"{version} is defined by a Dockerfile, and can't be locked for {platform} here")
        return self._contexts().lock(version, platform, options.arguments or (), progress=progress)

    def _read(self, digest: Digest) -> Lock:
        return Lock.kept(self._blobs.read(digest).decode())

    def _base_of(self, spec: Spec, platform: Platform, progress: Progress) -> "Base | None":
        if spec.image is None or platform.os != "linux":
            return None
        return self._bases().find(spec.image, platform, progress=progress)

    def _target(self, spec: Spec, platform: Platform, base: "Base | None", progress: Progress) -> Target:
        wanted = spec.wanted_python
        offers = [each.version for each in base.facts.pythons] if base else []
        python = choose(wanted, offers)
        if python is None and base is not None:
            had = ", ".join(offers) or "no Python"
            progress.warn(f"{spec.image} has {had}, the spec asks for Python {wanted or 'of any version'}")
        if python is None and platform == self._host_platform:
            python = choose(wanted, self._host_pythons())
        python = python or without_offer(wanted)
        if python is None and wanted is None:
            python = choose(None, self._host_pythons())
        if python is None:
            raise NoPythonKnown(f"no Python to lock for: asked for {wanted or 'any'}, none was found")
        if python.count(".") < 2:
            # A base may not say which patch release it has.
            python = without_offer(python) or f"{python}.0"
        glibc = None
        if platform.os == "linux":
            glibc = base.facts.glibc if base and base.facts.glibc else GLIBC_FLOOR
        return Target(platform, python, glibc)

    def _bytecode(self, target: Target, progress: Progress) -> str | None:
        """
        The interpreter of this machine that compiles: the target's own version, or else another patch release.

        Patch releases read each other's bytecode, but do not all write the same bytes: so the lock says which one.
        """
        hosts = self._host_pythons()
        chosen = target.python if target.python in hosts else choose(target.python_minor, hosts)
        if chosen is None:
            progress.warn(
                f"no Python {target.python_minor} on this machine to compile with: "
                "the image will hold no bytecode, and first imports in it will be slower"
            )
        return chosen

    def _resolve(
        self, spec: Spec, platform: Platform, base: "Base | None", options: LockOptions, progress: Progress
    ) -> Lock:
        conda: tuple[CondaPackage, ...] = ()
        if spec.needs_conda:
            assert self._conda is not None
            self._check_allowed(spec, spec.pip_requirements, options)
            conda, target = self._conda().solve(spec, platform, base, options, progress=progress)
            packages, resolver = self._on_top(spec, conda, target, options, progress)
        else:
            target = self._target(spec, platform, base, progress)
            packages, resolver = self._packages(spec, target, options, progress)
        return Lock(
            target=target,
            packages=packages,
            resolver=resolver,
            base=base.image.manifest.digest if base else None,
            as_of=options.as_of.isoformat().replace("+00:00", "Z") if options.as_of else None,
            bytecode=self._bytecode(target, progress) if options.bytecode and packages else None,
            conda=conda,
        )

    def _packages(
        self, spec: Spec, target: Target, options: LockOptions, progress: Progress
    ) -> tuple[tuple[LockedPackage, ...], str]:
        """The wheels of a spec that needs no conda, and what chose them."""
        if spec.pylock is not None:
            with progress.step("Choosing from pylock.toml") as step:
                packages = select_pylock(
                    spec.pylock, target, size_of=lambda url: self._fetcher().size_of(url, spec.sources)
                )
                step.note(quantity(len(packages), "package"))
            return packages, "pylock.toml"
        if not spec.has_dependencies:
            return (), "none"
        requirements, seeds = _asked(spec, target, progress)
        self._check_allowed(spec, requirements, options)
        request = self._request(spec, target, requirements, seeds, options)
        with self._working() as workdir:
            return self._keep(self._resolver().resolve(request, workdir=workdir, progress=progress))

    def _on_top(
        self, spec: Spec, conda: "tuple[CondaPackage, ...]", target: Target, options: LockOptions, progress: Progress
    ) -> tuple[tuple[LockedPackage, ...], str]:
        """The wheels on top of conda's packages, and what chose all of them."""
        assert self._conda is not None
        solver = self._conda()
        if not spec.pip_requirements:
            return (), solver.name
        request = self._request(spec, target, spec.pip_requirements, (), options)
        with self._working() as workdir:
            resolution = solver.on_top(conda, spec, request, workdir=workdir, progress=progress)
            packages, resolver = self._keep(resolution)
        return packages, f"{solver.name}, {resolver}"

    def _request(
        self,
        spec: Spec,
        target: Target,
        requirements: tuple[Requirement, ...],
        seeds: tuple[Requirement, ...],
        options: LockOptions,
    ) -> "ResolveRequest":
        """What is asked of pip's resolver."""
        from mlenv.resolve.interface import ResolveRequest

        return ResolveRequest(
            requirements=requirements,
            seeds=seeds,
            target=target,
            constraints=spec.constraints,
            sources=spec.sources,
            allow_source=frozenset(spec.allow_source) | frozenset(options.allow_source),
            allow_source_auto=options.allow_source_auto,
            prereleases=spec.prereleases,
            as_of=options.as_of,
        )

    @contextmanager
    def _working(self) -> Iterator[Path]:
        """An empty directory, for as long as a resolution takes."""
        from tempfile import TemporaryDirectory

        with TemporaryDirectory(dir=self._workdir(), prefix="resolve-") as workdir:
            yield Path(workdir)

    def _check_allowed(self, spec: Spec, requirements: tuple[Requirement, ...], options: LockOptions) -> None:
        """
        See whether the site's policy allows that pip's requirements are resolved.

        Raises:
            SourceBuildsOff, AddressNotListed: It does not.
        """
        if self._policy is None:
            return
        from mlenv.core.site_policy import addresses_of

        allowed = sorted({*spec.allow_source, *options.allow_source})
        self._policy.check_source_builds(allowed, any_package=options.allow_source_auto)
        addresses = list(addresses_of(spec.sources, (*requirements, *spec.constraints)))
        if addresses:
            self._policy.check_addresses(addresses, self._own_index())

    def _keep(self, resolution: "Resolution") -> tuple[tuple[LockedPackage, ...], str]:
        """What was resolved, and by what, with what was built on the way in the store."""
        for digest, path in resolution.built.items():
            with path.open("rb") as file:
                chunks = iter(lambda: file.read(1 << 20), b"")
                self._blobs.put(chunks, digest=digest, size=path.stat().st_size, what=path.name)
        return resolution.packages, resolution.resolver


def _asked(spec: Spec, target: Target, progress: Progress) -> tuple[tuple[Requirement, ...], tuple[Requirement, ...]]:
    """
    What to resolve, and what to add on our own account.

    A virtual environment has pip. conda's pip brings setuptools and wheel, too, up to Python 3.12; and setuptools
    stays below 81, the last to hold `pkg_resources`, which much published code imports.
    """
    seeds = [Requirement("pip")]
    if spec.conda is None:
        return spec.pip_requirements, tuple(seeds)
    if tuple(map(int, target.python_minor.split("."))) <= (3, 12):
        seeds += [Requirement("setuptools<81"), Requirement("wheel")]
    if spec.conda.needs_conda:
        return (*_from_pypi(spec.conda, progress), *spec.conda.pip), tuple(seeds)
    return (*map(to_pip_requirement, spec.conda.packages), *spec.conda.pip), tuple(seeds)


def _from_pypi(conda: CondaFile, progress: Progress) -> list[Requirement]:
    """A conda file's packages, for `resolver: pypi`. Raises `NotOnPypi`."""
    from mlenv.core.conda_to_pypi import to_pypi

    with progress.step("Taking conda packages from PyPI") as step:
        replaced = to_pypi(conda)
        step.note(", ".join(f"{each.asked.text} as {each.taken.text}" for each in replaced))
    for each in replaced:
        if each.lost:
            progress.warn(str(each))
    return [each.taken for each in replaced]


def _check_same(version: EnvironmentVersion, lock: Lock, options: LockOptions) -> None:
    as_of = options.as_of.isoformat().replace("+00:00", "Z") if options.as_of else None
    differences = []
    if lock.as_of != as_of:
        differences.append(f"as of {lock.as_of}" if lock.as_of else "as of the day it was made (no --as-of)")
    if lock.context is not None and options.arguments not in (None, lock.context.arguments):
        given = ", ".join(f"{name}={value}" for name, value in lock.context.arguments)
        differences.append(f"with the build arguments {given}" if given else "without build arguments")
    if lock.bytecode is not None and not options.bytecode:
        differences.append(f"with bytecode of Python {lock.bytecode}")
    if differences:
        raise LockDiffers(f"{version} is locked for {lock.target.platform} already: {' and '.join(differences)}")
