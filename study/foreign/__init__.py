"""Anybody's trials: a table from elsewhere, brought into the form that the analyses read."""
