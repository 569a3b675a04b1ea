"""The interfaces of ``linestop.bus.interfaces`` in memory, under virtual time; start with ``MemoryBroker``."""

from linestop.testing.memory.broker import MemoryBroker
from linestop.testing.memory.faults import Faults, NoFaults

__all__ = ["Faults", "MemoryBroker", "NoFaults"]
