"""The parts of a stream: consumers, between queues and engines; its times, alerts, accounts and state."""
