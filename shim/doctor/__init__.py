# SPDX-License-Identifier: Apache-2.0
"""What a node needs for the whole product, found out by trying it: `podferry doctor`.

probe    looks at the machine and returns facts; runs in a process of its own, may fail or hang
facts    what was seen, without an opinion
judge    a pure function from facts to a verdict: a state, what was found, a remedy
check    one line of the report: a probe, its judge, and what the thing is needed for
"""
