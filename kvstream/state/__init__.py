"""State that outlives the process: what every part saves, in snapshots that a store keeps."""
