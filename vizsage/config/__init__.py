"""The settings of a run: what there is, how they are checked, and how YAML files and overrides are read."""

from vizsage.config.building import SettingsError, build, build_config, is_unicode
from vizsage.config.field_types import OPTIMIZERS, SCHEDULERS, Count, PositiveInt
from vizsage.config.settings import Config
from vizsage.config.yaml_files import config_to_yaml, load_config, parse_overrides, read_yaml

__all__ = [
    "OPTIMIZERS",
    "SCHEDULERS",
    "Config",
    "Count",
    "PositiveInt",
    "SettingsError",
    "build",
    "build_config",
    "config_to_yaml",
    "is_unicode",
    "load_config",
    "parse_overrides",
    "read_yaml",
]
