"""What runs on a machine that trains or tests: a process, its trials, and what they leave behind.

It imports Ray for what it receives and sends, but no module that makes decisions.
"""
