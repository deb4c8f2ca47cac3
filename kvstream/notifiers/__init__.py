"""Alerts on their way out: webhooks, Alertmanager, commands and files."""
