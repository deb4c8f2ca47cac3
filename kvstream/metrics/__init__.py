"""What is measured: histograms, windows, summaries, trends and anomalies."""
