"""What call_path.py is made of: who takes part, what is put on them, what came of it, and how it is told."""
