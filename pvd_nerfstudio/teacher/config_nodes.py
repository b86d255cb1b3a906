"""The tree of a `config.yml`, bounded before anything is made of it."""

from pathlib import Path
from typing import Any

import yaml

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import plain
from pvd_nerfstudio.teacher.archive import open_file

LARGEST_FILE = 1 << 19
"""Bytes; nerfstudio writes ten to twenty thousand."""
MOST_NODES = 50_000
"""Nodes of the tree, counted as often as anchors let them appear."""
DEEPEST = 64
LONGEST_NUMBER = 100
"""Digits."""
GIVE_ORIGINAL = "Give the config.yml as ns-train wrote it."


def compose(path: Path) -> yaml.Node | None:
    """The tree of a file; of its tags nothing is made yet.

    Raises:
        InputError: it cannot be read, is no YAML, or is nested or repeated beyond measure.
    """
    with open_file(path) as file:
        text = file.read(LARGEST_FILE + 1)
    if len(text) > LARGEST_FILE:
        raise InputError(f"{plain(path)} is larger than {LARGEST_FILE} bytes. {GIVE_ORIGINAL}")
    try:
        words = text.decode("utf8")
        if f"\n{words}".find("\n%") >= 0:
            raise InputError(f"{plain(path)} has directives, which ns-train does not write. {GIVE_ORIGINAL}")
        root = _Composer(path, words).get_single_node()
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{plain(path)}{line}: not valid YAML: {plain(error.problem)}. {GIVE_ORIGINAL}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise InputError(f"{plain(path)}: not valid YAML: {plain(error)}. {GIVE_ORIGINAL}") from error
    if root is not None:
        _measure(root, path)
    return root


def parts(node: yaml.Node) -> list[yaml.Node]:
    """The nodes in a node."""
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def place(path: Path, node: yaml.Node) -> str:
    """Where a node stands."""
    return f"{plain(path)}, line {node.start_mark.line + 1}"


class _Composer(yaml.SafeLoader):
    def __init__(self, path: Path, text: str) -> None:
        super().__init__(text)
        self._path, self._depth = path, 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > DEEPEST:
            raise InputError(f"{plain(self._path)} is nested beyond measure. {GIVE_ORIGINAL}")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _measure(root: yaml.Node, path: Path) -> None:
    """Refuse trees that contain themselves, or are too large once written out."""
    sizes: dict[int, int] = {}
    depths: dict[int, int] = {}
    begun: set[int] = set()
    todo = [(root, False)]
    while todo:
        node, is_done = todo.pop()
        name = id(node)
        if is_done:
            begun.discard(name)
            sizes[name] = 1 + sum(sizes[id(part)] for part in parts(node))
            depths[name] = 1 + max((depths[id(part)] for part in parts(node)), default=0)
            if sizes[name] > MOST_NODES or depths[name] > DEEPEST:
                raise InputError(f"{place(path, node)}: nested or repeated beyond measure. {GIVE_ORIGINAL}")
        elif name in begun:
            raise InputError(f"{place(path, node)}: contains itself. {GIVE_ORIGINAL}")
        elif name not in sizes:
            begun.add(name)
            todo.append((node, True))
            todo += [(part, False) for part in parts(node)]
