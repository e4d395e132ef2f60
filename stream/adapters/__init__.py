"""One file per outside thing, `<technology>_<role>.py`; `memory.py` is the in-memory twin of every port."""
