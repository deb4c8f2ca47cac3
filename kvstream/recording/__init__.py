"""From a call to a queue: recorders, producers and the queues that they fill."""
