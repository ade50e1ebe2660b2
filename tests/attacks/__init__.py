"""Plays the attacker: hostile files, fields and requests, most of them against the running app."""
