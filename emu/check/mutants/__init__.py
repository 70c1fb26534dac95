"""Wrong variants of protocols, of the core and of the engine's model: each must be caught, or nothing that we say of the right ones counts.

`catalogue.MUTANTS` lists them; `emu check --self-test` hunts them all (selftest.py). If you add one: its module (protocols, cores, engines),
its entry in the catalogue with the smallest setup that shows it, docs/mutants.md.
"""
