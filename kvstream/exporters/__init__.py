"""Metrics as others read them: Prometheus and OpenTelemetry."""
