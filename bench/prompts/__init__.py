"""Prompts: sentences from templates and concepts, from files, and from published lists.

prompt_sets      a set of prompts from templates, a CSV file or a published list
sentences        templates and names to sentences, each sentence once
articles         a or an
published_lists  lists that papers published, read from the user's own copy
"""
