"""The commands that look at a running system: they ask a worker's web views, as any program may."""
