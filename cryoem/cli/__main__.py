"""``python -m cryoem.cli``: the command ``cryoem`` of this interpreter."""

from cryoem.cli import app

if __name__ == "__main__":
    app()
