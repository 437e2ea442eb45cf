"""The model and its training: networks, objective, evaluation, checkpoints. Imports neither Ray nor Optuna."""
