"""What finished records say: tables, pages and figures, each a pure function of records and stored scores. No model runs here.

score_table          stored scores per image: concept -> prompt -> seed -> image
identity             what one row is: labels that say in which settings two of a name differ
packed               records with their scores in one folder, for tables without the store
stores               where stored scores lie: folders of results or packed ones
worst_case           one erased model under all its attacks; what methods are compared on
results              records -> one frame, a row per measured cell, compared with the original model image by image
collapse             a model that draws nothing has not erased well: marked, never first
result_warnings      believability flags found in records (bench/contract/flags.py has those that stages raise, and what each means)
composites           what a composite score is: a formula of parts
composite_catalogue  every published composite score as such a formula
aggregates           composites evaluated on stored scores, with intervals and draws
roles                what the rows of a split are asked for
headlines            the headline score: which images its parts rest on
ranking              who leads on the score, and how sure that is
erasure_seeds        jobs that differ in their seed alone, as one row
judges_compared      agreement of judges, rates without the judges' own errors
attack_grid          attacked cells by place, with zero points and luck of equal budget
budget_curves        success against an attack's budget, relearning gaps
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
render               a report's blocks as Markdown, LaTeX or HTML
page                 the frame and style of every HTML page
"""
