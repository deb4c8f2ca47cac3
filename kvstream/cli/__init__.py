"""The command line, one file a command. Needs ``kvstream[cli]``."""
