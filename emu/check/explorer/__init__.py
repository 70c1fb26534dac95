"""Every interleaving of a small world, breadth first."""
