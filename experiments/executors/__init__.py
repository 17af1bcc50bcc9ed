"""Where attempts run. `base` is the contract."""
