"""One job, from a composed configuration to a record.

sweep            `vestige run` and `vestige plan`: Hydra composes the grid, a launcher runs its jobs
task             one job of a grid, in this process or in a worker
outcomes         how a job ended, from the worker to the process that started the sweep
notebook         what `import vestige` offers
choices          names on the command line, checked before Hydra composes
user_folders     the user's own settings, and what is wrong there
search_path      where Hydra looks for settings besides the shipped ones
tree             settings composed from words, without running anything
resolvers        settings that depend on the kind or number of concepts, or on the model
composing        from the composed tree to a typed job
checks           mistakes in a job, and what this machine lacks, found before a model is loaded
concept_sets     the chosen concepts: steps, what each may know, what is held out
attack_cells     null controls, and one attack at several budgets
job              the typed job
runner           the order of the stages
stages           each stage: found in the store, or computed
seeds            what the randomness of an erasure or an attack follows
stage_code       where the code of each kind of stage begins
shared_work      stages that depend on no concept
loaded_model     one load of a model per process
models_of_job    the original and the erased model of a job
generate         prompts to images on disk
record           the record of a job
plan             what a run would find, compute and lack
store            specification -> key -> folder: found, made, stripped, removed
store_folder     one stage on disk: its seal, hashes and schema
store_locks      who may use a stage now
syntax           one file as a syntax tree
code             digests of the code that computes a stage
cost             seconds, memory and load of a step
provenance       versions, machine, threads
pairgen          `vestige prompts pairgen`
contract_checks  `vestige check`
"""
