"""What is measured: histograms, windows, summaries and trends."""
