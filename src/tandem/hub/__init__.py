"""Models on disk: save and load directories, bundled checkpoints by name."""

from tandem.hub.directory import SavedConfig, bundled, find, load, read_config, save

__all__ = ["SavedConfig", "bundled", "find", "load", "read_config", "save"]
