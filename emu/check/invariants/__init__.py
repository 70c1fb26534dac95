"""S1 to S10 and V1 to V25 of the revoke contract, each one function over a history.

    judge(history, promised) -> Judgement a invariant: kept, broken (each occasion a Breach), or untested (why this history cannot show it)

A function looks at what happened and never at a protocol's name. Whether a broken invariant is a *breach* (it was promised) or the
protocol's *cost* is the reader's to say: `Judgement.promised`.

If you add one: its module's INVARIANTS, a history that keeps it and one that breaks it in tests/check/invariants, docs/invariants.md.
"""
