"""Published papers: what they printed and how they score, and our numbers beside theirs (`vestige reproduce`).

published   the printed values (results/published/<paper>.csv), checked when read; what must agree before two may be compared
mapping     which of our names stand for a paper's words (conf/reproduce/<paper>.yaml)
planning    a published table as jobs of our grid: commands, what this machine lacks for them, cost
composites  the scores that papers make of many numbers, each a formula of stored columns
beside      the printed values beside what our records hold, with the reasons why two may not be compared
reproduce   the verb: list, plan, comparison, --run

Nothing is imported here, so that a list or a plan loads no torch.
"""
