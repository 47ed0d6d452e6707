"""Fully connected layers behind a feature map."""
