"""The command line: parse, configure, call one function, print."""
