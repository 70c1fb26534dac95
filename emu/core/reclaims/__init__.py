"""Memory on its way back: what is asked for, whom it meets, what the protocol decides, what is then done."""
