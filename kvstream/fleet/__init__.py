"""A fleet: agents that write frames into a Kafka topic, and a group of workers that judges them."""
