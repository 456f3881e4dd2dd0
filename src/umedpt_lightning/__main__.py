"""``python -m umedpt_lightning``."""

from umedpt_lightning.cli import main

if __name__ == "__main__":
    main()
