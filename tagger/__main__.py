"""`python -m tagger COMMAND …` is the `tagger` command; jobs on a cluster start it like this."""

from tagger.cli import main

if __name__ == "__main__":
    main()
