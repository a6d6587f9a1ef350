"""Builds what pyproject.toml cannot describe: the compiled bit-packing extension (C++ and CUDA), when there is one."""

from setuptools import setup

setup()
