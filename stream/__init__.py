"""Event-driven streaming inference and retraining."""
