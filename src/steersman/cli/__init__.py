"""The command line: wires the rest together, and has no logic of its own."""
