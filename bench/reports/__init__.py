"""Tables, pages and figures from finished records and stored scores. No model runs here.

score_table          stored scores per image: concept -> prompt -> seed -> image
identity             what one row is; labels that say how two rows of the same name differ
packed               records with their scores in one folder, for tables without the store
stores               where the scores of records are
worst_case           the worst case of one erased model over its attacks
results              records -> one frame, a row per measured cell, compared with the original model image by image
collapse             collapse checks: a model that draws nothing has not erased well
result_warnings      flags found in records (bench/contract/flags.py has those that stages raise, and what each means)
composites           what an aggregate score is: a formula of parts
composite_catalogue  the aggregate scores that papers print
aggregates           aggregate scores computed from stored scores, with intervals and draws
roles                whether a row of a split is about the target or about what should stay
headlines            the headline score: which images each of its parts uses
ranking              the ranking by the headline score, and how certain it is
erasure_seeds        jobs that differ only in their seed, as one row
judges_compared      agreement of judges, and rates corrected for a judge's errors
attack_grid          attacked cells, with their zero points and fresh seeds of equal budget
budget_curves        attack success against budget, relearning gaps
robustness           attack x method, raw and calibrated, worst case by access

leaderboard          `vestige table`
main_table           its first table, at most twelve columns
ranking_table        its table of who leads
question_tables      its tables of what judges see, question by question
measure_tables       its tables of other measures, composite scores and cost
job_rows             rows of one job each
robustness_report    `vestige robustness`
gallery              `vestige gallery`
plots                `vestige plot`
concept_curves       `vestige curves`
plan_power           `vestige power`
render               the blocks of a report as Markdown, LaTeX or HTML
page                 frame and style of every HTML page
"""
