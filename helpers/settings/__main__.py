"""`python -m helpers.settings > .env.example`"""

from helpers.settings.reference import example

print(example(), end="")
