"""Run the command ``cryoem`` as ``python -m cryoem.cli``."""

from cryoem.cli import app

if __name__ == "__main__":
    app()
