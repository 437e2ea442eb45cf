"""What runs on a machine that trains or tests: a process, its trials, and what they leave behind.

Imports Ray for what it is told and sends; nothing of what is decided.
"""
