"""YAML files of people: read strictly, with an error that says what is wrong in one line."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml


class FileUnreadableError(Exception):
    """A file that cannot be read as a mapping; the message says why."""


def read_mapping(path: Path) -> Mapping[Any, Any]:
    """A file's mapping, empty for an empty file. Raises FileUnreadableError."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _StrictYaml)  # noqa: S506 - a SafeLoader, made stricter
    except OSError as error:
        raise FileUnreadableError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FileUnreadableError("is not UTF-8") from error
    except yaml.YAMLError as error:
        raise FileUnreadableError("is not YAML: " + " ".join(str(error).split())) from error
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise FileUnreadableError("expected a mapping of keys")
    return document


class _StrictYaml(yaml.SafeLoader):
    """YAML as it is meant: a key given twice is a mistake, not a preference for the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - the parent's signature
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} is given twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)
