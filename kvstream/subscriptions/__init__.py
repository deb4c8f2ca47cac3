"""What a stream publishes, for each listener through a bounded buffer of its own."""
