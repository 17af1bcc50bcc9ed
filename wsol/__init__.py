"""Weakly supervised object localization: data, models, training and metrics.

Knows nothing of sweeps, Optuna, W&B or YAML. Importing this package imports nothing else.
"""
