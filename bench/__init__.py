"""Figures. `python -m bench.run [--quick]` prints one JSON line each; README.md keeps them with the machine."""
