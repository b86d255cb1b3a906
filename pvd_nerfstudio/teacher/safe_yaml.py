"""Reads nerfstudio's `config.yml` without running what it asks for.

nerfstudio writes the file with `yaml.dump` and reads it with `yaml.Loader`, which imports and calls whatever the file
names. This loader knows the few kinds of object that a config is made of and refuses the rest. A module is imported
only after its package has been found to be nerfstudio, this plugin or another installed nerfstudio plugin.
"""

import dataclasses
import importlib
import importlib.util
import sys
from enum import Enum
from importlib.metadata import entry_points
from pathlib import Path, PureWindowsPath
from typing import Any, Generic, NoReturn

import yaml
from nerfstudio.configs.base_config import InstantiateConfig
from nerfstudio.engine.trainer import TrainerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pvd_nerfstudio.errors import InputError

_PREFIX = "tag:yaml.org,2002:python/"
_FUNCTIONS = {
    "nerfstudio.data.utils.nerfstudio_collate.nerfstudio_collate",
    "nerfstudio.data.datamanagers.base_datamanager.variable_res_collate",
}
_PATH_MODULES = ("pathlib", "pathlib._local")  # the second is the name in Python 3.13
_PATH_CLASSES = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_PATHS = {f"{module}.{name}" for module in _PATH_MODULES for name in _PATH_CLASSES}
_GIVE_ORIGINAL = "Give the config.yml as ns-train wrote it."


def load_config(path: Path) -> TrainerConfig:
    """Reads a `config.yml` that nerfstudio wrote.

    Nothing outside nerfstudio, this plugin and the installed nerfstudio plugins is imported, and nothing is called but
    the constructors of paths and enumerations.

    Returns:
        The trainer's config, equal to the one that was saved. Paths become paths of this operating system.

    Raises:
        InputError: The file cannot be read, is not such a config, asks for something that is not allowed, or was
            written by a method that is not installed.
    """
    try:
        config = _ConfigLoader(path).load()
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{line}: not valid YAML: {error.problem}. {_GIVE_ORIGINAL}") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise InputError(f"{path}: cannot be understood: {error}. {_GIVE_ORIGINAL}") from error
    if not isinstance(config, TrainerConfig):
        raise InputError(f"{path} holds no nerfstudio TrainerConfig. Give the config.yml that ns-train wrote.")
    if not isinstance(getattr(config, "pipeline", None), InstantiateConfig):
        raise InputError(f"{path} has no pipeline for method '{config.method_name}'. {_GIVE_ORIGINAL}")
    return config


def _allowed_packages() -> set[str]:
    groups = "nerfstudio.method_configs", "nerfstudio.dataparser_configs", "pvd_nerfstudio.students"
    plugins = [plugin for group in groups for plugin in entry_points(group=group)]
    return {"nerfstudio", "pvd_nerfstudio"} | {_top(plugin.module) for plugin in plugins}


def _defaults(cls: Any, known: dict[str, Any]) -> dict[str, Any]:
    """Defaults of the fields that are not known."""
    missing = [field for field in dataclasses.fields(cls) if field.name not in known]
    made = {f.name: f.default_factory() for f in missing if f.default_factory is not dataclasses.MISSING}
    return made | {f.name: f.default for f in missing if f.default is not dataclasses.MISSING}


def _top(dotted: str) -> str:
    return dotted.partition(".")[0]


class _ConfigLoader(yaml.SafeLoader):
    def __init__(self, path: Path):
        super().__init__(path.read_bytes())
        self.path = path
        self.method = "unknown"
        self.allowed = _allowed_packages()

    def load(self) -> Any:
        root = self.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            return None
        for key, value in root.value:
            if key.value == "method_name" and isinstance(value, yaml.ScalarNode):
                self.method = value.value
        return self.construct_document(root)

    def dataclass_object(self, name: str, node: yaml.Node) -> Any:
        """`!!python/object:CLASS`: made empty and filled in later, because a node may refer to its own parent.

        What an older version of this plugin could not know has its default.
        """
        cls = self._find_class(name, node)
        if not dataclasses.is_dataclass(cls) or not isinstance(node, yaml.MappingNode):
            self._refuse(f"asks for an object of '{name}'", node)
        instance = object.__new__(cls)
        yield instance
        saved = {str(key): value for key, value in self.construct_mapping(node).items()}
        ours = _top(cls.__module__) == _top(__name__)
        instance.__dict__.update(_defaults(cls, known=saved) | saved if ours else saved)

    def name(self, name: str, node: yaml.Node) -> Any:
        """`!!python/name:X`: a class, or one of the known collate functions."""
        return self._find(name, node) if name in _FUNCTIONS else self._find_class(name, node)

    def call(self, name: str, node: yaml.Node) -> Any:
        """`!!python/object/apply:X [...]`: a path, an enumeration's member or a subscripted generic class."""
        if not isinstance(node, yaml.SequenceNode):
            self._refuse(f"asks to run '{name}'", node)
        if name in _PATHS:
            return self._path(name, node)
        if name == "_operator.getitem":
            return self._subscript(node)
        if name == "builtins.getattr":  # how some releases of Python 3.11 pickle an enumeration's member
            cls, member = self._arguments(name, node, 2)
            return self._enum(cls, name, node)[member]
        if _top(name) not in self.allowed:
            self._refuse(f"asks to run '{name}'", node)
        cls = self._enum(self._find(name, node), name, node)
        (value,) = self._arguments(name, node, 1)
        try:
            return cls(value)
        except ValueError as error:
            raise self._lacking(f"{name}({value!r})", node) from error

    def refuse_tag(self, suffix: str, node: yaml.Node) -> NoReturn:
        self._refuse(f"has the tag '!!python/{suffix}'", node)

    def _path(self, name: str, node: yaml.SequenceNode) -> Path:
        parts = self.construct_sequence(node, deep=True)
        if not all(isinstance(part, str) for part in parts):
            self._refuse(f"gives '{name}' something other than text", node)
        return Path(PureWindowsPath(*parts).as_posix()) if name.endswith("WindowsPath") else Path(*parts)

    def _subscript(self, node: yaml.SequenceNode) -> Any:
        """A generic class with its parameter, such as `VanillaDataManager[DepthDataset]`."""
        generic, parameters = self._arguments("_operator.getitem", node, 2)
        given = parameters if isinstance(parameters, tuple) else (parameters,)
        classes = all(isinstance(item, type) for item in (generic, *given))
        if not classes or Generic not in generic.__mro__:
            self._refuse("asks to run '_operator.getitem'", node)
        return generic[parameters]

    def _enum(self, cls: Any, name: str, node: yaml.Node) -> type[Enum]:
        if not isinstance(cls, type) or not issubclass(cls, Enum) or _top(cls.__module__) not in self.allowed:
            self._refuse(f"asks to run '{name}'", node)
        return cls

    def _arguments(self, name: str, node: yaml.SequenceNode, count: int) -> list[Any]:
        arguments = self.construct_sequence(node, deep=True)
        if len(arguments) != count:
            self._refuse(f"gives '{name}' {len(arguments)} arguments in place of {count}", node)
        return arguments

    def _find_class(self, name: str, node: yaml.Node) -> type:
        found = self._find(name, node)
        if not isinstance(found, type):
            self._refuse(f"asks for '{name}'", node)
        if _top(found.__module__) not in self.allowed and not issubclass(found, (Optimizer, LRScheduler)):
            self._refuse(f"asks for '{name}'", node)
        return found

    def _find(self, name: str, node: yaml.Node) -> Any:
        """The object of that dotted name; its module is imported only when the package is allowed."""
        module_name, _, attribute = name.rpartition(".")
        package = _top(module_name)
        if package not in self.allowed and not f"{module_name}.".startswith("torch.optim."):
            self._foreign(package, name, attribute, node)
        if "__main__" in module_name:
            self._refuse(f"asks for '{name}'", node)
        try:
            found = getattr(importlib.import_module(module_name), attribute, None)
        except Exception as error:  # another package's module may fail in any way
            raise self._lacking(f"{name} ({error})", node) from error
        if found is None:
            raise self._lacking(name, node)
        return found

    def _foreign(self, package: str, name: str, attribute: str, node: yaml.Node) -> NoReturn:
        installed = package in sys.modules or (package.isidentifier() and importlib.util.find_spec(package))
        if installed or not package.isidentifier() or not attribute[:1].isupper():
            self._refuse(f"asks for '{name}'", node)
        raise InputError(
            f"{self._at(node)}: config.yml was written by the method '{self.method}' (package '{package}'), which is "
            "not installed here: pip install it if you trust it, or choose a run of an installed method."
        )

    def _refuse(self, what: str, node: yaml.Node) -> NoReturn:
        raise InputError(
            f"{self._at(node)}: refused: config.yml {what}, which is no part of nerfstudio or of a nerfstudio plugin "
            "that is installed here; nothing was executed. Do not give this file to the ns-* commands unless you "
            "trust where it came from: they would execute it."
        )

    def _lacking(self, what: str, node: yaml.Node) -> InputError:
        package = _top(what)
        which = "nerfstudio version" if package == "nerfstudio" else f"version of '{package}'"
        return InputError(
            f"{self._at(node)}: the {which} installed here lacks {what}. Install the version that trained this run."
        )

    def _at(self, node: yaml.Node) -> str:
        return f"{self.path}, line {node.start_mark.line + 1}"


def _register() -> None:
    plain = {
        "tuple": lambda loader, node: tuple(loader.construct_sequence(node)),
        "list": _ConfigLoader.construct_yaml_seq,
        "dict": _ConfigLoader.construct_yaml_map,
        "str": _ConfigLoader.construct_yaml_str,
        "int": _ConfigLoader.construct_yaml_int,
        "float": _ConfigLoader.construct_yaml_float,
        "bool": _ConfigLoader.construct_yaml_bool,
        "none": _ConfigLoader.construct_yaml_null,
    }
    for tag, construct in plain.items():
        _ConfigLoader.add_constructor(_PREFIX + tag, construct)
    _ConfigLoader.add_multi_constructor(_PREFIX + "object:", _ConfigLoader.dataclass_object)
    _ConfigLoader.add_multi_constructor(_PREFIX + "name:", _ConfigLoader.name)
    _ConfigLoader.add_multi_constructor(_PREFIX + "object/apply:", _ConfigLoader.call)
    _ConfigLoader.add_multi_constructor(_PREFIX, _ConfigLoader.refuse_tag)


_register()
