"""Timings of the parts and of the whole, on this machine: ``make bench``. Never part of the tests."""
