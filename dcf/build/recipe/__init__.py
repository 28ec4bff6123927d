"""How the code of each runtime becomes something that a watcher can start.

`contract.py` says what a bundle's build asks; python, go and node are twins that answer it.
"""
