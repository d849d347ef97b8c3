"""
The file tree of an image, put together from its layers' headers (image-spec, layer.md), with nothing unpacked.

Of a few files something is remembered while their content streams by; of the others only that they are there.
"""

import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from mlenv.build.unpacking import InvalidArchive, Limited, open_unpacked, walk_tar

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_LINKS: Final = 40
_DEPTH: Final = 256


class Node(Struct):
    """
    A file, directory or symbolic link.

    Attributes:
        link: What a symbolic link points at, or None.
        children: A directory's entries, or None.
        fact: What was taken from its content, or None.
    """

    link: str | None = None
    children: dict[str, "Node"] | None = None
    fact: bytes | None = None


class Interest(Struct, frozen=True):
    """A kind of file whose content matters: its path (without a leading slash), the most bytes of it, what to keep."""

    path: re.Pattern[str]
    limit: int
    extract: Callable[[bytes], bytes | None]


class _Entry(Struct):
    path: str
    kind: str
    link: str
    fact: bytes | None = None


class Listing(Struct):
    """What one layer holds: entries in their order, paths it hides, and directories whose former content it hides."""

    entries: list[_Entry] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    opaque: list[str] = field(default_factory=list)


def list_layer(path: Path, interests: Sequence[Interest], *, what: str, limit: int, members: int) -> Listing:
    """Read one layer's headers. Raises `InvalidArchive` if it is damaged or larger than the limits allow."""
    listing = Listing()
    wanted = re.compile("|".join(f"(?:{each.path.pattern})" for each in interests))
    with open_unpacked(path, limit=limit, what=what) as stream:
        for member, content in walk_tar(stream, what=what, members=members):
            name = posixpath.normpath("/" + member.name)[1:].lstrip("/")
            base = posixpath.basename(name)
            if name.count("/") > _DEPTH:
                raise InvalidArchive(what, f"has a path of more than {_DEPTH} directories")
            if base == _OPAQUE:
                listing.opaque.append(posixpath.dirname(name))
            elif base.startswith(_WHITEOUT):
                listing.hidden.append(posixpath.join(posixpath.dirname(name), base.removeprefix(_WHITEOUT)))
            elif name:
                fact = None
                if member.kind == "0" and wanted.fullmatch(name):
                    fact = _extract(name, member.size, content, interests)
                listing.entries.append(_Entry(name, member.kind, member.link, fact))
    return listing


def _extract(name: str, size: int, content: Limited, interests: Sequence[Interest]) -> bytes | None:
    interest = next(each for each in interests if each.path.fullmatch(name))
    return interest.extract(content.exactly(min(size, interest.limit)))


class Tree:
    """The image's file system as a container would see it."""

    def __init__(self) -> None:
        self.root = Node(children={})

    def apply(self, listing: Listing) -> None:
        """Put a layer on top. What it hides, it hides of the layers below, not of itself."""
        for path in listing.opaque:
            if (node := self.find(path)) and node.children is not None:
                node.children.clear()
        for path in listing.hidden:
            parent = self.find(posixpath.dirname(path))
            if parent and parent.children is not None:
                parent.children.pop(posixpath.basename(path), None)
        for entry in listing.entries:
            self._add(entry)

    def _add(self, entry: _Entry) -> None:
        parent = self._directory(posixpath.dirname(entry.path))
        name = posixpath.basename(entry.path)
        if parent is None or parent.children is None:
            return
        if entry.kind == "5":
            there = parent.children.get(name)
            if there is None or there.children is None:
                parent.children[name] = Node(children={})
        elif entry.kind == "2":
            parent.children[name] = Node(link=entry.link)
        elif entry.kind == "1":
            target = self.find(posixpath.normpath("/" + entry.link), follow_last=False)
            parent.children[name] = Node(fact=target.fact, link=target.link) if target else Node()
        else:
            parent.children[name] = Node(fact=entry.fact)

    def _directory(self, path: str) -> Node | None:
        """A directory, made where the layer does not name it; through links, as an unpacker that stays inside does."""
        node = self.root
        parts = path.split("/") if path else []
        for position, part in enumerate(parts):
            if node.children is None:
                return None
            child = node.children.get(part)
            if child is not None and child.link is not None:
                real = self.real_path("/".join(parts[: position + 1]))
                if real is None:
                    return None
                return self._directory("/".join([*real.split("/")[1:], *parts[position + 1 :]]).strip("/"))
            if child is None or child.children is None:
                child = node.children[part] = Node(children={})
            node = child
        return node

    def real_path(self, path: str, *, follow_last: bool = True) -> str | None:
        """Where a path leads, absolute and without links; None if it leads nowhere. Links never leave the image."""
        left = [part for part in path.split("/") if part][::-1]
        done: list[str] = []
        nodes = [self.root]
        links = 0
        while left:
            part = left.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if done:
                    done.pop()
                    nodes.pop()
                continue
            child = (nodes[-1].children or {}).get(part)
            if child is None:
                return None
            if child.link is not None and (left or follow_last):
                links += 1
                if links > _LINKS:
                    return None
                if child.link.startswith("/"):
                    done, nodes = [], [self.root]
                left += child.link.split("/")[::-1]
                continue
            done.append(part)
            nodes.append(child)
        return "/" + "/".join(done)

    def find(self, path: str, *, follow_last: bool = True) -> Node | None:
        """What is at a path, through links."""
        real = self.real_path(path, follow_last=follow_last)
        if real is None:
            return None
        node = self.root
        for part in real.split("/")[1:] if real != "/" else ():
            node = (node.children or {})[part]
        return node

    def names(self, path: str) -> list[str]:
        """The entries of a directory, sorted; none if it is none."""
        node = self.find(path)
        return sorted(node.children) if node and node.children is not None else []

    def fact(self, path: str) -> bytes | None:
        """What was taken from a file's content."""
        node = self.find(path)
        return node.fact if node else None

    def directories(self) -> Iterator[tuple[str, Node]]:
        """All directories with their paths, the root as `""`, without following links."""
        stack = [("", self.root)]
        while stack:
            path, node = stack.pop()
            yield path, node
            for name, child in sorted((node.children or {}).items(), reverse=True):
                if child.children is not None:
                    stack.append((f"{path}/{name}", child))
