"""Every failure that the pipeline must survive, done to it for real: ``make faults``.

Real processes, a real broker, real signals; supervisors off, so that no crash is masked. What is
right is computed by `faults.truth`, which shares no code with the folds.
"""
