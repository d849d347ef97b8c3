"""An image from a base, package layers, and one small layer that makes them a virtual environment (PEP 405)."""

import posixpath
from collections.abc import Sequence
from typing import Final

from mlenv.build.assemble import store_image
from mlenv.build.compression import open_stream
from mlenv.build.interface import Blobs
from mlenv.build.tarball import END, directory_header, file_header, link_header, padding
from mlenv.build.validate import InvalidImage, environment_of
from mlenv.core.facts import Interpreter
from mlenv.core.image import Image
from mlenv.core.layer import Compression, Layer, LayerRecipe
from mlenv.core.lock import LOCK_NAME, Lock
from mlenv.core.spec import Spec

#: Docker and overlay file systems stop here.
LAYER_LIMIT: Final = 127
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What would lead an interpreter away from the environment, were it inherited from the base.
_MISLEADING: Final = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV")

_ACTIVATE: Final = """\
# Source this file, from bash, dash or zsh: `. {prefix}/bin/activate`
deactivate () {{
    PATH="$_OLD_VIRTUAL_PATH"
    PS1="${{_OLD_VIRTUAL_PS1:-}}"
    export PATH
    unset VIRTUAL_ENV VIRTUAL_ENV_PROMPT _OLD_VIRTUAL_PATH _OLD_VIRTUAL_PS1
    unset -f deactivate
    hash -r 2>/dev/null || true
}}
_OLD_VIRTUAL_PATH="$PATH"
_OLD_VIRTUAL_PS1="${{PS1:-}}"
VIRTUAL_ENV="{prefix}"
VIRTUAL_ENV_PROMPT="({name}) "
PATH="$VIRTUAL_ENV/bin:$PATH"
PS1="$VIRTUAL_ENV_PROMPT${{PS1:-}}"
export VIRTUAL_ENV VIRTUAL_ENV_PROMPT PATH
unset PYTHONHOME
hash -r 2>/dev/null || true
"""


def environment_layer(lock: Lock, interpreter: Interpreter, recipe: LayerRecipe, *, blobs: Blobs) -> Layer:
    """
    The topmost layer: `pyvenv.cfg`, links to the base's interpreter, `activate`, and the lock.

    Args:
        lock: Kept in the image as `pylock.toml`.
        interpreter: The base's Python that the environment uses.
        recipe: For the prefix, the Python version and the compression.
    """
    prefix, minor = recipe.prefix.strip("/"), recipe.python
    files = {
        f"{prefix}/pyvenv.cfg": _pyvenv(interpreter),
        f"{prefix}/{LOCK_NAME}": lock.to_pylock(),
        f"{prefix}/bin/activate": _ACTIVATE.format(prefix=recipe.prefix, name=posixpath.basename(recipe.prefix)),
    }
    links = {
        f"{prefix}/bin/python": interpreter.path,
        f"{prefix}/bin/python3": "python",
        f"{prefix}/bin/python{minor}": "python",
        f"{prefix}/lib64": "lib",
    }
    site_packages = f"{prefix}/lib/python{minor}/site-packages"
    entries = {path: directory_header(path) for path in _parents([*files, *links, f"{site_packages}/."])}
    entries |= {path: _file(path, text.encode()) for path, text in files.items()}
    entries |= {path: link_header(path, target, hard=False) for path, target in links.items()}
    return _store(b"".join(entries[path] for path in sorted(entries)) + END, recipe.compression, blobs)


def compose_image(
    base: Image, layers: Sequence[Layer], *, spec: Spec, lock: Lock, recipe: LayerRecipe | None, blobs: Blobs
) -> Image:
    """
    Put layers on a base. Nothing but the arguments decides the image's bytes: no name, no version, no clock.

    Args:
        layers: The lowest first; their blobs and the base's are stored.
        spec: For its environment variables, which win over the base's.
        lock: For its digest, which becomes a label.
        recipe: For the prefix that is activated; None where nothing is installed.

    Raises:
        InvalidImage: There are more layers than a container engine takes.
    """
    count = len(base.layers) + len(layers)
    if count > LAYER_LIMIT:
        problem = (
            f"the base has {len(base.layers)} layers and {len(layers)} are added, at most {LAYER_LIMIT} can be mounted"
        )
        raise InvalidImage(str(base.manifest.digest), problem, hint="use a base image with fewer layers")
    labels = {
        "org.opencontainers.image.base.digest": str(base.manifest.digest),
        "dev.mlenv.lock": str(lock.digest),
    }
    if recipe is not None:
        labels["dev.mlenv.environment"] = recipe.prefix
    inner = dict(base.config.get("config") or {})
    inner["Env"] = [
        f"{name}={value}" for name, value in _environment(base, spec, recipe, conda=bool(lock.conda)).items()
    ]
    inner["Labels"] = {**(inner.get("Labels") or {}), **labels}
    kept = ("architecture", "os", "variant", "os.version", "os.features", "history", "author")
    config = {key: base.config[key] for key in kept if key in base.config} | {"config": inner}
    return store_image(config, layers, blobs, below=base.layers, annotations=labels)


def _environment(base: Image, spec: Spec, recipe: LayerRecipe | None, *, conda: bool) -> dict[str, str]:
    """The base's variables, the spec's, and those that activate the environment, whatever the others say."""
    if recipe is None:
        return environment_of(base.config) | dict(spec.environment_variables)
    variables = {key: value for key, value in environment_of(base.config).items() if key not in _MISLEADING}
    variables |= dict(spec.environment_variables)
    variables["PATH"] = f"{recipe.prefix}/bin:{variables.get('PATH') or _PATH}"
    variables["CONDA_PREFIX" if conda else "VIRTUAL_ENV"] = recipe.prefix
    return variables


def _pyvenv(interpreter: Interpreter) -> str:
    """What tells the interpreter where its standard library is (PEP 405)."""
    home = posixpath.dirname(interpreter.path)
    return (
        f"home = {home}\n"
        "include-system-site-packages = false\n"
        f"version = {interpreter.version}\n"
        f"executable = {interpreter.path}\n"
    )


def _parents(paths: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        parts = path.split("/")[:-1]
        found.update("/".join(parts[:count]) for count in range(1, len(parts) + 1))
    return found


def _file(path: str, content: bytes) -> bytes:
    return file_header(path, len(content), executable=False) + content + padding(len(content))


def _store(tar: bytes, compression: Compression, blobs: Blobs) -> Layer:
    """Compress and keep a layer that is small enough to be in memory."""
    with blobs.writer() as writer:
        stream = open_stream(compression, writer)
        stream.write(tar)
        diff_id = stream.close()
        digest, size = writer.commit()
    return Layer(digest, diff_id, size, compression.media_type)
