"""How a law is judged: the cases drawn for it, its witnesses, what they must meet, the evidence.

The tests of tests/laws and the command ``python -m oracles hunt`` judge by the same function,
`tests.harness.runner.judge`.
"""
