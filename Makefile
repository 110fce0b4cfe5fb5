PYTHON ?= python3

.PHONY: help run test serve worker check bench
help:
	@$(PYTHON) run.py help
run test serve worker check bench:
	@$(PYTHON) run.py $@
