"""`python seed.py`: bring the shipped catalogue into the database (`flask seed`). Safe to run again."""

import sys

import run

if __name__ == "__main__":
    sys.exit(run.main(["seed", *sys.argv[1:]]))
