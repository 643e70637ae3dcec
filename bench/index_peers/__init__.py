"""The engines that bench/index.py compares, each run in a process of its own."""
