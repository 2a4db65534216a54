"""`python -m hf_finetune`: the command line, for launchers that start a module."""

from hf_finetune.cli.main import main_command

if __name__ == "__main__":
    main_command()
