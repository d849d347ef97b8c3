"""
Which images a Dockerfile stands on, and the same Dockerfile on other ones.

After the Dockerfile reference (docs.docker.com/reference/dockerfile) as BuildKit reads it: parser directives, line
continuation, here-documents, `ARG` before `FROM`, stages. Nothing is run, and only what can name an image or ask for
privileges is looked at. The words of a line, and what they expand to, are in `dockerfile_words`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from mlenv.core.dockerfile_words import Unexpandable, expand, flags_of, split_words
from mlenv.core.image_name import is_file_source
from mlenv.core.platform import InvalidPlatform, Platform
from mlenv.errors import InvalidInput

#: The name of the image that has nothing in it.
SCRATCH: Final = "scratch"
_DIRECTIVE: Final = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
_STAGE_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]*")
_HEREDOC: Final = re.compile(r"\d*<<(-?)(['\"]?)([A-Za-z_][A-Za-z0-9_.-]*)\2")
_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_WITH_HEREDOC: Final = frozenset({"RUN", "COPY", "ADD"})
_MOUNTS: Final = frozenset({"bind", "cache", "tmpfs", "secret"})


class InvalidDockerfile(InvalidInput):
    """A Dockerfile that can't be understood. `line` counts from 1."""

    def __init__(self, line: int, why: str, *, hint: str | None = None) -> None:
        super().__init__(f"Dockerfile, line {line}: {why}")
        self.line, self.why, self.hint = line, why, hint


class RefusedInstruction(InvalidDockerfile):
    """A Dockerfile that asks for more than a build may do."""


class Instruction(Struct, frozen=True):
    """
    One instruction.

    Attributes:
        name: In capitals: `FROM`.
        text: All that stands after the name, on one line: without comments, line ends and here-documents.
        line: Where it begins, from 1.
        end: The line after its last one, without here-documents.
        documents: The lines of its here-documents, as they stand there.
    """

    name: str
    text: str
    line: int
    end: int
    documents: tuple[str, ...] = ()


class ImageUse(Struct, frozen=True, order=True):
    """
    An image that a Dockerfile needs.

    Attributes:
        name: As it is written there, expanded: `python:3.11-slim`.
        platform: What `--platform` asks for; None for what the build is for.
    """

    name: str
    platform: Platform | None = None


class Dockerfile(Struct, frozen=True):
    """
    A Dockerfile that was understood.

    Attributes:
        lines: Its text, in lines without their ends.
        instructions: In order.
        images: What it needs from outside, each once, in order. `scratch` is none.
        final: What the last stage stands on; None for `scratch`.
        escape: The character that continues lines.
        arguments: The names of all `ARG`s.
    """

    lines: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    images: tuple[ImageUse, ...]
    final: ImageUse | None
    escape: str
    arguments: frozenset[str]
    _uses: tuple[tuple[int, ImageUse], ...]

    @property
    def has_documents(self) -> bool:
        """Whether it has here-documents, which not every builder knows."""
        return any(each.documents for each in self.instructions)

    def on(self, names: Mapping[ImageUse, str]) -> str:
        """The same Dockerfile with other names for its images, each of which must be there."""
        lines = list(self.lines)
        for position, use in self._uses:
            instruction = self.instructions[position]
            changed = _renamed(instruction, use, names[use])
            first = instruction.line - 1
            # NOTE: as many lines as before, so that what a builder says of lines is true.
            lines[first : instruction.end - 1] = [changed, *[""] * (instruction.end - instruction.line - 1)]
        for number, line in enumerate(lines):
            match = _DIRECTIVE.fullmatch(line.strip())
            if match is None:
                break
            if match[1].lower() == "syntax":
                # What reads the Dockerfile would be an image from elsewhere, too. The builder reads it by itself.
                lines[number] = f"# {match[2]} is not fetched"
        return "\n".join(lines) + "\n"


def parse_dockerfile(text: str, arguments: Mapping[str, str], platform: Platform) -> Dockerfile:
    """
    Read a Dockerfile.

    Args:
        arguments: Build arguments, which win over the defaults of `ARG`.
        platform: What is built for.

    Raises:
        InvalidDockerfile: It can't be understood, or names an image in a way that only running it would tell.
        RefusedInstruction: It asks for privileges, or for something of the machine that builds it.
    """
    lines = tuple(text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n"))
    escape = _escape(lines)
    instructions = tuple(_instructions(lines, escape))
    reader = _Reader(dict(arguments), platform, escape)
    for position, instruction in enumerate(instructions):
        reader.take(position, instruction)
    if reader.stages == []:
        raise InvalidDockerfile(len(lines), "it has no FROM")
    return Dockerfile(
        lines=lines,
        instructions=instructions,
        images=tuple(dict.fromkeys(use for _, use in reader.uses)),
        final=reader.stages[-1][1],
        escape=escape,
        arguments=frozenset(reader.names),
        _uses=tuple(reader.uses),
    )


class _Reader:
    """Goes through the instructions, and remembers stages and arguments."""

    def __init__(self, given: dict[str, str], platform: Platform, escape: str) -> None:
        self._given, self._platform, self._escape = given, platform, escape
        self._global = _platform_arguments(platform)
        self.names: set[str] = set()
        #: The name of each stage, and the image at its bottom.
        self.stages: list[tuple[str | None, ImageUse | None]] = []
        self.uses: list[tuple[int, ImageUse]] = []

    def take(self, position: int, instruction: Instruction) -> None:
        if instruction.name == "ARG":
            self._argument(instruction)
        elif instruction.name == "FROM":
            self._from(position, instruction)
        elif not self.stages:
            raise InvalidDockerfile(instruction.line, f"{instruction.name} before the first FROM")
        elif instruction.name == "ONBUILD":
            _, _, rest = instruction.text.partition(" ")
            inner = replace(instruction, name=instruction.text.split(None, 1)[0].upper(), text=rest.strip())
            if any(flags_of(inner.text, self._escape)[0].get(each) for each in ("from", "mount")):
                raise InvalidDockerfile(instruction.line, "ONBUILD with --from or --mount can't be pinned")
            self._check(inner)
        else:
            self._check(instruction)
            self._other_images(position, instruction)

    def _argument(self, instruction: Instruction) -> None:
        for word in split_words(instruction.text, self._escape):
            name, equals, default = word.partition("=")
            self.names.add(name)
            if self.stages:
                continue
            if name in self._given:
                self._global[name] = self._given[name]
            elif equals:
                self._global[name] = self._expanded(default, instruction)

    def _from(self, position: int, instruction: Instruction) -> None:
        flags, words = flags_of(instruction.text, self._escape)
        if len(words) not in {1, 3} or (len(words) == 3 and words[1].upper() != "AS") or flags.keys() - {"platform"}:
            raise InvalidDockerfile(instruction.line, "expected FROM [--platform=…] IMAGE [AS NAME]")
        name = words[2].lower() if len(words) == 3 else None
        if name is not None and not _STAGE_NAME.fullmatch(name):
            raise InvalidDockerfile(instruction.line, f"{name!r} can't be the name of a stage")
        base = self._expanded(words[0], instruction)
        if base.lower() in [each for each, _ in self.stages]:
            below = next(use for each, use in reversed(self.stages) if each == base.lower())
        elif base == SCRATCH:
            below = None
        else:
            below = self._use(base, flags.get("platform"), instruction)
            self.uses.append((position, below))
        self.stages.append((name, below))

    def _use(self, name: str, platforms: list[str] | None, instruction: Instruction) -> ImageUse:
        if not name:
            raise InvalidDockerfile(
                instruction.line, "names no image: an ARG is empty", hint="give it with --build-arg NAME=VALUE"
            )
        if not _IMAGE.fullmatch(name):
            raise InvalidDockerfile(instruction.line, f"{name[:200]!r} is no image's name")
        if is_file_source(name):
            raise InvalidDockerfile(instruction.line, f"{name[:200]!r} names a file, expected an image")
        if not platforms:
            return ImageUse(name)
        try:
            platform = Platform.parse(_without_variant(self._expanded(platforms[-1], instruction)))
        except InvalidPlatform as error:
            raise InvalidDockerfile(instruction.line, str(error), hint=error.hint) from error
        return ImageUse(name, None if platform == self._platform else platform)

    def _expanded(self, word: str, instruction: Instruction) -> str:
        try:
            return expand(word, self._global, self._escape)
        except Unexpandable as error:
            raise InvalidDockerfile(instruction.line, str(error)) from error

    def _other_images(self, position: int, instruction: Instruction) -> None:
        """`COPY --from=` and `RUN --mount=…,from=`."""
        for name in _named(instruction, self._escape):
            if "$" in name:
                raise InvalidDockerfile(
                    instruction.line,
                    f"--from={name} is known only when it is run",
                    hint="give the image a name by a stage of its own: `FROM $IMAGE AS name`",
                )
            if name.lower() in [each for each, _ in self.stages] or name == SCRATCH:
                continue
            if name.isdigit():
                if int(name) >= len(self.stages) - 1:
                    raise InvalidDockerfile(instruction.line, f"there is no stage {name} before this one")
                continue
            self.uses.append((position, self._use(name, None, instruction)))

    def _check(self, instruction: Instruction) -> None:
        """Refuse what would give a step of the build more than its container."""
        flags, _ = flags_of(instruction.text, self._escape)
        if instruction.name == "RUN":
            _check_run(instruction, flags)
        if instruction.name in {"COPY", "ADD"} and "from" in flags and instruction.name == "ADD":
            raise InvalidDockerfile(instruction.line, "ADD has no --from")


def _check_run(instruction: Instruction, flags: Mapping[str, list[str]]) -> None:
    line = instruction.line
    for value in flags.get("security", ()):
        if value != "sandbox":
            raise RefusedInstruction(line, f"RUN --security={value} is not allowed")
    for value in flags.get("network", ()):
        if value not in {"none", "default"}:
            raise RefusedInstruction(line, f"RUN --network={value} is not allowed", hint="expected default or none")
    for name in flags:
        if name not in {"mount", "network", "security"}:
            raise RefusedInstruction(line, f"RUN --{name} is not allowed")
    for value in flags.get("mount", ()):
        options = _mount_options(value)
        kind = options.get("type", "bind")
        if kind not in _MOUNTS:
            hint = "use a secret: `--mount=type=secret,id=…`" if kind == "ssh" else None
            raise RefusedInstruction(line, f"RUN --mount=type={kind} is not allowed", hint=hint)
        source = options.get("source") or options.get("src") or ""
        if ".." in source.split("/"):
            raise RefusedInstruction(line, f"RUN --mount from {source!r} leads out of the context")


def _named(instruction: Instruction, escape: str) -> Iterator[str]:
    """What an instruction says to take files from, each once."""
    flags, _ = flags_of(instruction.text, escape)
    found = list(flags.get("from", ())) if instruction.name == "COPY" else []
    if instruction.name == "RUN":
        found += [options["from"] for options in map(_mount_options, flags.get("mount", ())) if "from" in options]
    yield from dict.fromkeys(found)


def _mount_options(text: str) -> dict[str, str]:
    return {key.lower(): value for key, _, value in (each.partition("=") for each in text.split(","))}


def _renamed(instruction: Instruction, use: ImageUse, name: str) -> str:
    """The instruction, on one line, with another name for its image."""
    text = instruction.text
    if instruction.name == "FROM":
        words = text.split()
        start = next(number for number, word in enumerate(words) if not word.startswith("--"))
        # NOTE: the base is the one of its platform already.
        return " ".join(["FROM", name, *words[start + 1 :]])
    pattern = re.compile(rf"((?:--|,|=)from=)([\"']?){re.escape(use.name)}\2(?=[\s,]|$)", re.IGNORECASE)
    return f"{instruction.name} {pattern.sub(lambda match: match[1] + name, text)}"


def _platform_arguments(platform: Platform) -> dict[str, str]:
    """What may be named in `FROM` without being declared ("Automatic platform ARGs in the global scope")."""
    found = {}
    for prefix in ("TARGET", "BUILD"):
        found[f"{prefix}PLATFORM"] = str(platform)
        found[f"{prefix}OS"] = platform.os
        found[f"{prefix}ARCH"] = platform.architecture
        found[f"{prefix}VARIANT"] = ""
    return found


def _without_variant(text: str) -> str:
    """`linux/arm64/v8` is `linux/arm64`."""
    return "/".join(text.split("/")[:2])


def _escape(lines: tuple[str, ...]) -> str:
    """The `escape` directive, which stands before everything else; a backslash if there is none."""
    for number, line in enumerate(lines, 1):
        match = _DIRECTIVE.fullmatch(line.strip())
        if match is None:
            break
        if match[1].lower() == "escape":
            if match[2] not in {"\\", "`"}:
                raise InvalidDockerfile(number, f"escape={match[2]}: expected \\ or `")
            return match[2]
    return "\\"


def _instructions(lines: tuple[str, ...], escape: str) -> Iterator[Instruction]:
    """Instructions, put together of continued lines; comments and empty lines between them count for nothing."""
    continued = re.compile(rf"^(.*?){re.escape(escape)}[ \t]*$", re.DOTALL)
    number = 0
    while number < len(lines):
        if not lines[number].strip() or lines[number].lstrip().startswith("#"):
            number += 1
            continue
        first = number
        parts: list[str] = []
        while number < len(lines):
            line = lines[number]
            number += 1
            if parts and (not line.strip() or line.lstrip().startswith("#")):
                continue
            match = continued.match(line)
            parts.append(match[1] if match else line)
            if match is None:
                break
        name, _, text = "".join(parts).strip().partition(" ")
        name, _, more = name.partition("\t")
        name, text, end = name.upper(), f"{more} {text}".strip(), number + 1
        if not re.fullmatch(r"[A-Z]+", name):
            raise InvalidDockerfile(first + 1, f"{name[:40]!r} is no instruction")
        start = number
        if name in _WITH_HEREDOC or name == "ONBUILD":
            for dashed, word in _heredocs(text, escape):
                number = _end_of_document(lines, number, dashed, word, first + 1)
        yield Instruction(name, text, first + 1, end, lines[start:number])


def _heredocs(text: str, escape: str) -> Iterator[tuple[bool, str]]:
    """The here-documents that begin in a line: whether their tabs are removed, and what ends them."""
    if text.lstrip().startswith("["):
        return
    for word in split_words(text, escape, keep_quotes=True):
        match = _HEREDOC.fullmatch(word)
        if match is not None:
            yield bool(match[1]), match[3]


def _end_of_document(lines: tuple[str, ...], start: int, dashed: bool, word: str, line: int) -> int:
    for number in range(start, len(lines)):
        if (lines[number].lstrip("\t") if dashed else lines[number]) == word:
            return number + 1
    raise InvalidDockerfile(line, f"the here-document <<{word} has no end")
