"""`python -m s2p_tui`."""

from s2p_tui.cli import main

if __name__ == "__main__":
    main()
