"""Loaded by every Python process that has this folder on PYTHONPATH: see network_guard.py."""

import network_guard

network_guard.install()
