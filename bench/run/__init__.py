"""One job, from a composed configuration to a record.

sweep            `vestige run` and `vestige plan`: Hydra composes the grid, a launcher runs its jobs
task             one job of a grid, in this process or in a worker
outcomes         how a job ended, from the worker to the process that started the sweep
notebook         what `import vestige` offers
config           the typed job, all mistakes named before a model is loaded
runner           the order of the stages
stages           each stage: made, or found in the store
generate         prompts to images on disk
score_intervals  the value of a column and its interval
record           what the record of a job says
plan             what a run would find, compute and lack
store            specification -> key -> folder
code             digests of the code that computes a stage
cost             seconds, memory and load of a step
provenance       versions, machine, threads
pairgen          `vestige prompts pairgen`
contract_checks  `vestige check`
"""
