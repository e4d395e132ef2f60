"""Plain functions over what has happened: no Faust, no clock, nothing that runs for ever."""
