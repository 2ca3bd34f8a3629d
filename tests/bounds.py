"""
How long a test waits for what it expects.

A guard rail, for a test that would wait for ever: what is waited for comes in a moment, on a machine of its own. Where it
comes late the machine is slow or its cores are taken away, and that is no finding. What is told of time is told by the times
in the journal or by a clock that the test sets.
"""

BOUND_S = 300.0
