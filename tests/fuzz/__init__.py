"""Hostile and broken input: whatever comes in, nothing but clean rejections comes out.

`python -m tests.fuzz` looks for input that breaks this, guided by coverage; `test_fuzz.py` replays
what was found once, and tries a little on its own in every run of the tests.
"""
