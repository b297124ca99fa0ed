"""Models on disk: save and load directories, bundled checkpoints by name, and the device they go to."""

from tandem.hub.conversion import Conversion, Parity, convert
from tandem.hub.device import choose_device
from tandem.hub.directory import bundled, find, load, read_config, save
from tandem.hub.header import SavedConfig

__all__ = [
    "Conversion",
    "Parity",
    "SavedConfig",
    "bundled",
    "choose_device",
    "convert",
    "find",
    "load",
    "read_config",
    "save",
]
