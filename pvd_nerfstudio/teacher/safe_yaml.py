"""Reads nerfstudio's `config.yml` without running what it asks for.

nerfstudio writes the file with `yaml.dump` and reads it with `yaml.Loader`, which imports and calls whatever the file
names. This reader knows the few kinds of object that a configuration is made of and refuses the rest, wherever they
stand; it gives an object its own fields alone, each with a value that its annotation allows. A module is imported
only after its package has been found to be nerfstudio's, this plugin's or another installed nerfstudio plugin's.

Of a run that is not ours, only what a teacher needs is read: its method's name, model and data set.
"""

import dataclasses
import importlib
import importlib.util
import sys
from contextlib import suppress
from enum import Enum
from functools import cache, cached_property
from importlib.metadata import entry_points
from math import isnan
from pathlib import Path, PureWindowsPath
from typing import Any, NoReturn

import yaml
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import plain
from pvd_nerfstudio.teacher.config_nodes import GIVE_ORIGINAL, LONGEST_NUMBER, compose, parts, place
from pvd_nerfstudio.teacher.config_values import belongs, default, hints

_YAML, _PYTHON = "tag:yaml.org,2002:", "tag:yaml.org,2002:python/"
_FUNCTIONS = {
    "nerfstudio.data.utils.nerfstudio_collate.nerfstudio_collate",
    "nerfstudio.data.datamanagers.base_datamanager.variable_res_collate",
}
_PATH_MODULES = ("pathlib", "pathlib._local")  # the second is the name in Python 3.13
_PATH_CLASSES = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_PATHS = {f"{module}.{name}" for module in _PATH_MODULES for name in _PATH_CLASSES}
_OF_NERFSTUDIO = (
    *("cameras", "configs", "data", "engine", "field_components", "fields"),
    *("model_components", "models", "optimizers", "pipelines", "plugins", "utils"),
)
"""Its packages whose import does nothing but define; scripts and viewers are none of them."""
_PYTHON_PLAIN = ("tuple", "list", "dict", "str", "int", "float", "bool", "none")
_SCALARS = ("bool", "int", "float", "str", "null")
_PLAIN = (*_SCALARS, "seq", "map")
_LARGEST = 1 << 63
MOST_OBJECTS = 200
STUDENTS = "pvd_nerfstudio.students"


def load_config(path: Path) -> TrainerConfig:
    """Reads a `config.yml` that nerfstudio wrote.

    Nothing outside nerfstudio, this plugin and the installed nerfstudio plugins is imported, and nothing is called but
    the constructors of paths and enumerations.

    Returns:
        Of a run of ours, the trainer's config, equal to the one that was saved. Of another, nerfstudio's plain one
        with its `method_name`, `relative_model_dir`, model, dataparser and what the data manager says about images.
        Paths become paths of this operating system.

    Raises:
        InputError: the file cannot be read, is not such a config, asks for something that is not allowed, has a value
            where another kind belongs, or was written by a method that is not installed.
    """
    root = compose(path)
    reader = _Reader(path)
    if not isinstance(root, yaml.MappingNode) or not root.tag.startswith(f"{_PYTHON}object:"):
        raise InputError(f"{plain(path)} holds no nerfstudio TrainerConfig. Give the config.yml that ns-train wrote.")
    return reader.read(root)


def allowed_packages() -> set[str]:
    """Packages whose modules a file may name: nerfstudio, this plugin and other installed plugins of both."""
    return _packages_on(tuple(sys.path))


@cache
def _packages_on(path: tuple[str, ...]) -> set[str]:
    """To look through all that is installed takes a tenth of a second: once for a path."""
    del path
    installed, groups = entry_points(), ("nerfstudio.method_configs", "nerfstudio.dataparser_configs", STUDENTS)
    plugins = [plugin for group in groups for plugin in installed.select(group=group)]
    return {"nerfstudio", "pvd_nerfstudio"} | {_top(plugin.module) for plugin in plugins}


def _top(dotted: str) -> str:
    return dotted.partition(".")[0]


class _LackingError(InputError):
    """What a file names is in no package that is installed."""


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path, self._method = path, "unknown"
        self._made: dict[int, Any] = {}
        self._objects = 0

    def read(self, root: yaml.MappingNode) -> TrainerConfig:
        """The trainer's config."""
        items = self._items(root)
        if "method_name" in items:
            self._method = plain(items["method_name"].value)
        self._check_tags(root)
        try:
            cls = self._class(root.tag.removeprefix(f"{_PYTHON}object:"), root)
        except _LackingError:  # the first releases had another one
            cls = TrainerConfig
        if not issubclass(cls, TrainerConfig):
            raise InputError(f"{plain(self._path)} holds no nerfstudio TrainerConfig. {GIVE_ORIGINAL}")
        pipeline = items.get("pipeline")
        if not isinstance(pipeline, yaml.MappingNode):
            raise InputError(f"{plain(self._path)} has no pipeline for method '{self._method}'. {GIVE_ORIGINAL}")
        return self._value(root) if _top(cls.__module__) == _top(__name__) else self._teacher(items, pipeline)

    def _teacher(self, items: dict[str, yaml.Node], pipeline: yaml.MappingNode) -> TrainerConfig:
        """What a teacher needs of a run."""
        inner = self._items(pipeline)
        manager = self._items(self._needed(inner, "datamanager", pipeline))
        folder: Any = TrainerConfig().relative_model_dir
        if "relative_model_dir" in items:
            folder = self._checked(items["relative_model_dir"], Path, folder, "relative_model_dir")
        name = self._checked(self._needed(items, "method_name", pipeline), str, "", "method_name")
        model = self._part(inner, "model", ModelConfig, Model, pipeline)
        dataparser = self._part(manager, "dataparser", DataParserConfig, DataParser, inner["datamanager"])
        data = self._checked(manager["data"], Path | None, None, "data") if "data" in manager else None
        seen = VanillaDataManagerConfig(dataparser=dataparser, data=data)
        if "camera_res_scale_factor" in manager:
            node = manager["camera_res_scale_factor"]
            seen.camera_res_scale_factor = self._checked(node, float, 1.0, "camera_res_scale_factor")
        sampler = self._items(manager["pixel_sampler"]) if "pixel_sampler" in manager else {}
        if "fisheye_crop_radius" in sampler:
            node = sampler["fisheye_crop_radius"]
            seen.pixel_sampler.fisheye_crop_radius = self._checked(node, float | None, None, "fisheye_crop_radius")
        return TrainerConfig(
            method_name=name,
            relative_model_dir=folder,
            pipeline=VanillaPipelineConfig(model=model, datamanager=seen),
        )

    def _part(self, items: dict[str, yaml.Node], name: str, kind: type, target: type, owner: yaml.Node) -> Any:
        node = self._needed(items, name, owner)
        value = self._value(node)
        if not isinstance(value, kind):
            self._misplaced(name, node, kind.__name__)
        made = getattr(value, "_target", None)
        if not isinstance(made, type) or not issubclass(made, target):
            self._misplaced(f"{name}._target", node, f"a {target.__name__}")
        return value

    def _needed(self, items: dict[str, yaml.Node], name: str, owner: yaml.Node) -> yaml.Node:
        if name not in items:
            raise InputError(f"{place(self._path, owner)}: '{name}' is missing. {GIVE_ORIGINAL}")
        return items[name]

    def _items(self, node: yaml.Node) -> dict[str, yaml.Node]:
        """Fields of an object."""
        items: dict[str, yaml.Node] = {}
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag != f"{_YAML}str" or key.value in items:
                raise InputError(f"{place(self._path, key)}: '{plain(key.value)}' is there twice, or no name.")
            items[key.value] = value
        return items

    def _check_tags(self, root: yaml.Node) -> None:
        """Refuse what is not allowed anywhere in the file, also where it is not read."""
        seen: set[int] = set()
        todo = [root]
        while todo:
            node = todo.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if node.tag.startswith(_PYTHON):
                kind, _, name = node.tag.removeprefix(_PYTHON).partition(":")
                if name and self._is_installed(name):
                    with suppress(_LackingError):  # of another release; where it is read it is missed
                        self._named(kind, name, node)
                elif not name and kind not in _PYTHON_PLAIN:
                    self._refuse(f"has the tag '!!python/{kind}'", node)
            elif node.tag.removeprefix(_YAML) not in _PLAIN:
                self._refuse(f"has the tag '{node.tag}'", node)
            todo += parts(node)

    def _named(self, kind: str, name: str, node: yaml.Node) -> Any:
        """The class or the function that a tag names."""
        if kind == "object":
            cls = self._class(name, node)
            if not dataclasses.is_dataclass(cls) or not isinstance(node, yaml.MappingNode):
                self._refuse(f"asks for an object of '{name}'", node)
            return cls
        if kind == "name":
            return self._find(name, node) if name in _FUNCTIONS else self._class(name, node)
        if kind != "object/apply" or not isinstance(node, yaml.SequenceNode):
            self._refuse(f"asks to run '{name}'" if kind == "object/apply" else f"has the tag '!!python/{kind}'", node)
        if name in _PATHS:
            return Path
        if name == "builtins.getattr":  # how some releases of Python 3.11 pickle an enumeration's member
            return getattr
        if name == "_operator.getitem":
            return self._generic(node)
        if not self._is_allowed(name):
            self._refuse(f"asks to run '{name}'", node)
        cls = self._find(name, node)
        if not isinstance(cls, type) or not issubclass(cls, Enum) or not self._is_allowed(f"{cls.__module__}."):
            self._refuse(f"asks to run '{name}'", node)
        return cls

    def _value(self, node: yaml.Node) -> Any:
        """What a node stands for."""
        if id(node) not in self._made:
            self._made[id(node)] = self._make(node)
        return self._made[id(node)]

    def _make(self, node: yaml.Node) -> Any:
        tag = node.tag.removeprefix(_PYTHON)
        kind, _, name = tag.partition(":")
        if tag != node.tag and name:
            return self._object(kind, name, node)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if isinstance(node, yaml.SequenceNode) and tag in (f"{_YAML}seq", "list", "tuple"):
            values = [self._value(part) for part in node.value]
            return tuple(values) if tag == "tuple" else values
        if isinstance(node, yaml.MappingNode) and tag in (f"{_YAML}map", "dict"):
            pairs = [(self._value(key), self._value(value)) for key, value in node.value]
            if all(isinstance(key, (str, int, Enum)) for key, _ in pairs):
                return dict(pairs)
        raise InputError(f"{place(self._path, node)}: '{plain(node.tag)}' is no value. {GIVE_ORIGINAL}")

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix(_PYTHON).removeprefix(_YAML)
        kind = "null" if kind == "none" else kind
        if kind not in _SCALARS or (kind in ("int", "float") and len(node.value) > LONGEST_NUMBER):
            raise InputError(f"{place(self._path, node)}: '{plain(node.value)}' is no value. {GIVE_ORIGINAL}")
        try:
            value = getattr(yaml.constructor.SafeConstructor(), f"construct_yaml_{kind}")(node)
        except (yaml.YAMLError, ValueError, LookupError, OverflowError) as error:
            raise InputError(f"{place(self._path, node)}: '{plain(node.value)}' is no {kind}.") from error
        if (isinstance(value, int) and abs(value) >= _LARGEST) or (isinstance(value, float) and isnan(value)):
            raise InputError(f"{place(self._path, node)}: {plain(node.value)} is no number that can be used.")
        return value

    def _object(self, kind: str, name: str, node: yaml.Node) -> Any:
        named = self._named(kind, name, node)
        if kind == "name":
            return named
        if kind == "object":
            return self._filled(named, node)
        arguments = [self._value(part) for part in node.value]
        if named is Path:
            return self._path_of(name, arguments, node)
        if named is getattr and len(arguments) == 2:  # noqa: PLR2004
            cls, member = arguments
            if isinstance(cls, type) and issubclass(cls, Enum) and member in tuple(cls.__members__):
                return cls[member]
        if isinstance(named, type) and issubclass(named, Enum) and len(arguments) == 1:
            try:
                return named(arguments[0])
            except (ValueError, TypeError) as error:
                raise self._lacking(f"{name}({arguments[0]!r})", node) from error
        self._refuse(f"asks to run '{name}'", node)

    def _filled(self, cls: Any, node: yaml.Node) -> Any:
        """An object of a dataclass with its own fields, made without its constructor."""
        renamed: dict[str, str] = getattr(cls, "old_names", {})
        items = {renamed.get(key, key): value for key, value in self._items(node).items()}
        self._objects += 1
        if self._objects > MOST_OBJECTS:
            raise InputError(f"{place(self._path, node)}: more objects than any config.yml has. {GIVE_ORIGINAL}")
        made, annotations = object.__new__(cls), hints(cls)
        for item in dataclasses.fields(cls):
            usual = default(item)
            if item.name in items:
                value = self._checked(items[item.name], annotations[item.name], usual, f"{cls.__name__}.{item.name}")
            elif usual is dataclasses.MISSING:
                raise InputError(f"{place(self._path, node)}: '{cls.__name__}.{item.name}' is missing. {GIVE_ORIGINAL}")
            else:
                value = _then(cls, item.name, usual)
            object.__setattr__(made, item.name, value)
        return made

    def _checked(self, node: yaml.Node, hint: Any, usual: Any, name: str) -> Any:
        value = self._value(node)
        if not belongs(value, hint, None if usual is dataclasses.MISSING else usual, name.rpartition(".")[2]):
            self._misplaced(name, node, _words(hint, usual))
        return value

    def _misplaced(self, name: str, node: yaml.Node, wanted: str) -> NoReturn:
        there = plain(node.value) if isinstance(node, yaml.ScalarNode) else node.tag.removeprefix(_YAML)
        raise InputError(
            f"{place(self._path, node)}: '{name}' is {plain(there)}, where {plain(wanted)} belongs. {GIVE_ORIGINAL}"
        )

    def _path_of(self, name: str, arguments: list[Any], node: yaml.Node) -> Path:
        if not all(isinstance(part, str) and "\0" not in part for part in arguments):
            self._refuse(f"gives '{name}' something other than text", node)
        return Path(PureWindowsPath(*arguments).as_posix()) if name.endswith("WindowsPath") else Path(*arguments)

    def _generic(self, node: yaml.SequenceNode) -> None:
        """A data manager with its kind of data set, such as `VanillaDataManager[DepthDataset]`, which is not read."""
        for part in parts(node):
            if not part.tag.startswith((f"{_PYTHON}name:", f"{_PYTHON}tuple")):
                self._refuse("asks to run '_operator.getitem'", node)

    def _class(self, name: str, node: yaml.Node) -> type:
        found = self._find(name, node)
        if not isinstance(found, type):
            self._refuse(f"asks for '{name}'", node)
        if not self._is_allowed(f"{found.__module__}.") and not issubclass(found, (Optimizer, LRScheduler)):
            self._refuse(f"asks for '{name}'", node)
        return found

    def _find(self, name: str, node: yaml.Node) -> Any:
        """The object of that dotted name; its module is imported only when the package is allowed."""
        module_name, _, attribute = name.rpartition(".")
        if not self._is_allowed(name) and not name.startswith("torch.optim."):
            self._foreign(_top(module_name), name, attribute, node)
        if "__" in name:
            self._refuse(f"asks for '{name}'", node)
        try:
            found = getattr(importlib.import_module(module_name), attribute, None)
        except Exception as error:  # another package's module may fail in any way
            raise self._lacking(f"{name} ({error})", node) from error
        if found is None:
            raise self._lacking(name, node)
        return found

    @cached_property
    def _allowed(self) -> set[str]:
        return allowed_packages()

    def _is_allowed(self, name: str) -> bool:
        package, _, rest = name.partition(".")
        return package in self._allowed and (package != "nerfstudio" or _top(rest) in _OF_NERFSTUDIO)

    def _is_installed(self, name: str) -> bool:
        package = _top(name)
        is_word = package.isidentifier() and "." in name
        return not is_word or package in sys.modules or importlib.util.find_spec(package) is not None

    def _foreign(self, package: str, name: str, attribute: str, node: yaml.Node) -> NoReturn:
        if self._is_installed(name) or not attribute[:1].isupper():
            self._refuse(f"asks for '{name}'", node)
        raise InputError(
            f"{place(self._path, node)}: config.yml was written by the method '{self._method}' (package "
            f"'{plain(package)}'), which is not installed here: pip install it if you trust it, or choose a run of an "
            "installed method."
        )

    def _refuse(self, what: str, node: yaml.Node) -> NoReturn:
        raise InputError(
            f"{place(self._path, node)}: refused: config.yml {plain(what)}, which is no part of nerfstudio or of a "
            "nerfstudio plugin that is installed here; nothing was executed. Do not give this file to the ns-* "
            "commands unless you trust where it came from: they would execute it."
        )

    def _lacking(self, what: str, node: yaml.Node) -> "_LackingError":
        package = plain(_top(what))
        which = "nerfstudio version" if package == "nerfstudio" else f"version of '{package}'"
        return _LackingError(
            f"{place(self._path, node)}: the {which} installed here lacks {plain(what)}. Install the version that "
            "trained this run."
        )


def _then(cls: type, name: str, usual: Any) -> Any:
    """What a field that a file lacks had been like: it was written when there was no such field."""
    if isinstance(usual, CameraOptimizerConfig):
        return dataclasses.replace(usual, mode="off")
    if cls.__name__ == "NerfactoModelConfig" and name == "max_res":
        return 1024
    return usual


def _words(hint: Any, usual: Any) -> str:
    if isinstance(hint, type):
        return hint.__name__
    return str(hint).replace("typing.", "") if hint is not Any else type(usual).__name__
