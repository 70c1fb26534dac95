"""The small world that the explorer and the simulator share: the real core, a model of engine and shell, and who acts on them."""
