"""What runs replicas: twins behind one contract."""
