"""Published papers: their numbers and scores, compared with ours (`vestige reproduce`).

published   the printed values (results/published/<paper>.csv), checked when they are read
mapping     which of our names correspond to a paper's names (conf/reproduce/<paper>.yaml)
planning    a published table as jobs of our grid: commands, what is missing on this machine, cost
comparison  each printed value next to ours, with the reasons if the two may not be compared
reproduce   the verb: list, plan, comparison, --run

Nothing is imported here, so that a list or a plan loads no torch.
"""
