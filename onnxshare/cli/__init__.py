"""The command line, without logic: parse, call, print, exit."""
