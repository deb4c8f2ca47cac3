"""What each part of kvstream costs, beside a collector of the usual kind in the same run."""
