from linestop.models.playbook import Playbook as Playbook
from linestop.models.playbook import PlaybookServer as PlaybookServer
from linestop.models.playbook import load_playbook as load_playbook
from linestop.models.playbook import parse_playbook as parse_playbook
from linestop.testing.cluster import Cluster as Cluster
from linestop.testing.memory import Faults as Faults
from linestop.testing.memory import MemoryBroker as MemoryBroker
from linestop.testing.replay import Difference as Difference
from linestop.testing.replay import replay as replay
from linestop.testing.virtual_time import Deadlock as Deadlock
from linestop.testing.virtual_time import VirtualLoop as VirtualLoop
from linestop.testing.virtual_time import run_virtual as run_virtual
from linestop.testing.virtual_time import virtual_now as virtual_now

__all__: list[str]  # noqa: PYI035 - computed from the imports above
