"""The page of the site with every command and option, as `ptycho --help` has them."""

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer import Context
from typer.cli import get_docs_for_click
from typer.main import get_command

from ptycho.cli.app import app


def on_files(files: Files, config: MkDocsConfig) -> Files:
    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=Context(command), name="ptycho", title="Commands")
    files.append(File.generated(config, "cli.md", content=text))
    return files
