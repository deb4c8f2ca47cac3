"""kvstream."""
