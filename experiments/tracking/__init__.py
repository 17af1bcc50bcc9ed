"""What mirrors a sweep's results elsewhere. It only reads the results folder; training does not know of it."""
