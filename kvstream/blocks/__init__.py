"""What is known of blocks: the table that events are applied to."""
