PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := engines/built/nano

.PHONY: demo test lint gpu-check clean
