"""What the shipped draft's training text was asked for, from public packages to files of `models distill`.

passages.py    real texts: speeches, articles, a handbook (--passages)
requests.py    complete requests: templates.toml filled with the words of a dictionary (--prompts)

The model card (models/docs) says which part of the text came from which.
"""
