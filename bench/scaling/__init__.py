"""The parts of `scaling_sim.py`: loads, a cluster in virtual time, rules of scaling, and what is said of them."""
