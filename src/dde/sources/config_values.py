"""Values of a run's config by name: groups within it are named by dots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dde.sources.values import as_text

__all__ = ["CONFIG", "config_heads", "config_text", "config_value"]

#: What stands before the name of a key of the config, where other things have names as well.
CONFIG = "config."


def config_heads(name: str) -> list[str]:
    """Return the keys of a config under which a name may stand: ``a.b`` in ``a``, or as ``a.b``.

    Examples
    --------
    >>> config_heads("config.optimizer.lr")
    ['config', 'config.optimizer', 'config.optimizer.lr', 'optimizer', 'optimizer.lr']
    """
    found = []
    for whole in dict.fromkeys((name, name.removeprefix(CONFIG))):
        parts = whole.split(".")
        found += [".".join(parts[: i + 1]) for i in range(len(parts))]
    return found


def config_value(config: Mapping[str, Any], name: str) -> Any:
    """Return the value of a key of a config, of groups within it by dots; None where there is none.

    Examples
    --------
    >>> config_value({"optimizer": {"lr": 0.1}, "data.mix": "c4"}, "optimizer.lr")
    0.1
    >>> config_value({"optimizer": {"lr": 0.1}, "data.mix": "c4"}, "data.mix")
    'c4'
    """
    if name in config:
        return config[name]
    parts = name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        group = config.get(".".join(parts[:i]))
        if isinstance(group, Mapping):
            return config_value(group, ".".join(parts[i:]))
    return None


def config_text(value: Any) -> str:
    """Return a value of a config as text: "" for None, lists and groups as JSON.

    Examples
    --------
    >>> config_text(True), config_text([0.9, 0.95]), config_text(None)
    ('True', '[0.9, 0.95]', '')
    """
    if value is None:
        return ""
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return str(value) if isinstance(value, bool) else as_text(value)
