"""A producer restarts on a host whose clock is an hour behind: its epoch is lower. Run with the Python that has kvstream."""

import numpy as np
from kvstream import EventFrame
from kvstream.engine.monitor import Monitor

S, monitor, alerts = 10**9, Monitor(), []
start = 1767225600 * S


def frame(i, at, epoch, seq):
    return EventFrame(np.zeros(1, np.uint8), np.array([i]), np.array([at]), "e", epoch=epoch, seq=seq)


for i in range(50):
    monitor.process(frame(i, start + i * S, start, i))
for i in range(100):
    alerts += monitor.process(frame(100 + i, start + (60 + i) * S, start - 3600 * S, i)).alerts
accounts = monitor.summary().accounts
print(f"processed {accounts.processed} of 150, dropped {accounts.dropped}, alerts {[a.rule for a in alerts]}")
raise SystemExit(accounts.processed != 150)
