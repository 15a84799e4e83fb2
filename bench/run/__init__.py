"""One job, from a composed configuration to a record.

sweep            `vestige run` and `vestige plan`: Hydra composes the grid
config           the typed job, all mistakes named before a model is loaded
runner           the order of the stages
concept_sets     the chosen concepts: steps, what each may know, what is held out
stages           each stage: made, or found in the store
stage_code       where the code of each kind of stage begins
shared_work      stages that depend on no concept
models_of_job    the original and the erased model of a job
generate         prompts to images on disk
score_intervals  the value of a column and its interval
record           what the record of a job says
plan             what a run would find, compute and lack
store            specification -> key -> folder: found, made, stripped, removed
store_folder     one stage on disk: its seal, hashes and schema
store_locks      who may use a stage now
code             digests of the code that computes a stage
cost             seconds, memory and load of a step
provenance       versions, machine, threads
pairgen          `vestige prompts pairgen`
contract_checks  `vestige check`
"""
