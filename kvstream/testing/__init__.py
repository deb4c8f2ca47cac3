"""Help for tests of code that uses kvstream: a fake clock, a scripted source and captured alerts.

Examples:
    >>> from kvstream.testing import ReferenceTable
    >>> table = ReferenceTable()
    >>> table.allocate(7, ts=0)
    >>> table.access(7, ts=2)
    >>> table.evict(7, ts=5)
    >>> table.evicted[0].lifetime, table.evicted[0].idle
    (5, 3)
"""

from kvstream.testing.alerts import CapturedAlerts
from kvstream.testing.clock import FakeClock
from kvstream.testing.reference import Eviction, Generation, ReferenceTable
from kvstream.testing.source import ScriptedSource

__all__ = ["CapturedAlerts", "Eviction", "FakeClock", "Generation", "ReferenceTable", "ScriptedSource"]
