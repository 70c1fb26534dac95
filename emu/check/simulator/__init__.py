"""Seeds on a virtual clock: a seed draws a setup, manners and faults, and drives the small world through one long history."""
