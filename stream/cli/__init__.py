"""The command line `driftloop`."""
