"""What models are asked: sentences from templates and concepts, files, and published lists.

prompt_sets      a set of prompts from templates, a CSV file or a published list
sentences        templates and fills to sentences, each once
articles         a or an
published_lists  lists that papers published, read from the user's own copy
"""
