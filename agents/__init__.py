"""Faust stream processors, one a file: read a topic, call a fold, keep the rows, send what is new."""
