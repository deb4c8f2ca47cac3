"""A server starts anew while a producer is at frame 5,000: nothing was lost. Run with the Python that has kvstream."""

import numpy as np
from kvstream import EventFrame
from kvstream.engine.monitor import Monitor

S, monitor, alerts = 10**9, Monitor(), []
for i in range(30):
    at = (1767225600 + i) * S
    alerts += monitor.process(
        EventFrame(
            np.zeros(1, np.uint8), np.array([i]), np.array([at]), "e", epoch=1767225600 * S, seq=5000 + i
        )
    ).alerts
lost = monitor.summary().accounts.lost_frames
print(f"lost frames {lost}, alerts {[a.rule for a in alerts]}")
raise SystemExit(lost != 0 or bool(alerts))
