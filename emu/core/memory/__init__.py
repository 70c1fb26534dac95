"""Memory that a device may reach: registrations of every backing, their keys, pins, faults, and the way out."""
